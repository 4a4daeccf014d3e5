// The relay's loop in C: reads the public sockets, decides as relay/route.py does, and sends one frame to
// each transceiver. At everyday load a packet costs less for its work than for what the wake-up finds cold,
// and an interpreter has much more of that (docs/decisions.md).
//
// One thread calls fastpath_run, which returns when it is told to stop. It allocates nothing per packet,
// never blocks on a transceiver, and writes nothing but its process's own counters: the tables are read
// only (law 2).

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define VERSION 1 // relay/fastpath.py; of the structs below

#define MAX_SOCKETS 1024         // relays times listen addresses
#define MAX_TRANSCEIVERS 256     // shm/counters.py
#define BATCH 64                 // packets a socket and look, so that one busy socket cannot starve others
#define MAX_DATAGRAM_BYTES 2048  // shm/frame.py
#define MAX_FRAME_BYTES 60000    // shm/frame.py
#define ENTRY_HEADER_BYTES 24    // shm/frame.py: length u16 LE, relay u8, 0, path
#define PATH_BYTES 20            // shm/path.py: listen address u8, 0, port u16 BE, 16-byte address
#define KEY_BYTES 20             // shm/table.py, shm/ufrag.py
#define RECORD_BYTES 64          // shm/table.py
#define MAX_PROBE 256            // shm/table.py
#define READ_RETRIES 4           // shm/table.py
#define MAX_USERNAME_BYTES 513   // shm/stun.py
#define STUN_HEADER_BYTES 20
#define SEND_BUFFER_BYTES (1 << 20) // relay/links.py
#define RETRY_NS 50000000        // relay/links.py
#define BEAT_NS 25000000         // between two signs of life
#define BEAT_MS 50               // an idle loop turns at least so often
#define OTHER_LOOP_NS 1000000000 // the process's other loop counts as hung after so long
#define IDLE_WAITS 10            // relay/pace.py
#define MAX_LOOKS 40             // a wake-up; then whoever wants to stop it has a turn (relay/loop.py)

// Words of the relay's block, shm/counters.py.
enum {
    HEARTBEAT_NS = 3,
    PACKETS_RECEIVED,
    BYTES_RECEIVED,
    PACKETS_FORWARDED,
    FRAMES_SENT,
    WAKEUPS,
    SOCKETS_READ,
    DROPPED_EMPTY,
    DROPPED_OVERSIZED,
    DROPPED_NOT_WEBRTC,
    DROPPED_MALFORMED_STUN,
    DROPPED_UNKNOWN_UFRAG,
    DROPPED_UNKNOWN_FLOW,
    DROPPED_TRANSCEIVER_GONE,
    DROPPED_QUEUE_FULL,
    COMPILED,
    SOCKET_OVERFLOWS,
    COUNTERS,
    FORWARD = 0, // a decision that is no drop
};

struct table {
    const uint8_t *records;
    const uint32_t *epoch;
    uint32_t mask, max_probe;
};

struct link { // to a transceiver slot; all zero at first
    uint64_t retry_at;
    uint32_t generation, refused_generation;
    int32_t fd; // 0: none
    int32_t reserved;
};

struct input {
    int32_t fd;
    uint8_t relay, local, v6, reserved;
};

struct fastpath { // relay/fastpath.py
    struct table routes, flows;
    uint64_t *counters;
    const uint64_t *other_loop_ns; // the other loop's last sign of life
    struct link *links;            // MAX_TRANSCEIVERS
    const char *run_dir;
    const struct input *inputs;
    uint32_t input_count;
    uint32_t coalesce_us;
    int32_t stop_fd;
    int32_t reserved;
};

struct owner {
    uint32_t slot, generation;
};

struct packet { // as it goes into a frame, but for what lies behind its size
    uint8_t header[ENTRY_HEADER_BYTES];
    uint8_t data[MAX_DATAGRAM_BYTES + 8]; // one more byte shows that a datagram was longer
};

struct work {
    struct packet packets[BATCH];
    struct sockaddr_in6 names[BATCH];
    struct iovec into[BATCH];
    struct mmsghdr messages[BATCH];
    struct owner owners[BATCH];
    uint32_t homes[BATCH];
    bool placed[BATCH];
    uint8_t frame[MAX_FRAME_BYTES];
    uint64_t counts[COUNTERS];
    double rate; // packets/s
    uint64_t looked_at, beat_at;
};

// zlib's crc32, as shm/table.py uses it, four bits at a time: a table of one cache line, which a lone
// packet has to fetch from afar.
static uint32_t hash(const uint8_t *key) {
    static const _Alignas(64) uint32_t table[16] = {
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4, 0x4DB26158, 0x5005713C,
        0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C, 0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C,
    };
    uint32_t crc = 0xFFFFFFFF;
    for (int i = 0; i < KEY_BYTES; i++) {
        crc ^= key[i];
        crc = crc >> 4 ^ table[crc & 0xF];
        crc = crc >> 4 ^ table[crc & 0xF];
    }
    return ~crc;
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

// ---- tables: shm/table.py TableReader -------------------------------------------------------------

enum found { ABSENT, OTHER, FOUND };

// A record under its sequence number; one that stays half-written (its writer died there) is another key's.
static enum found read_record(const uint8_t *record, const uint8_t *key, struct owner *owner) {
    const uint32_t *sequence = (const uint32_t *)record;
    for (int i = 0; i < READ_RETRIES; i++) {
        uint32_t before = __atomic_load_n(sequence, __ATOMIC_ACQUIRE);
        if (before & 1)
            continue;
        uint32_t generation;
        uint16_t slot;
        memcpy(&generation, record + 4, sizeof generation);
        memcpy(&slot, record + 8, sizeof slot);
        bool empty = !record[10];
        bool same = !memcmp(record + 24, key, KEY_BYTES);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(sequence, __ATOMIC_RELAXED) != before)
            continue;
        if (empty)
            return ABSENT;
        if (!same)
            return OTHER;
        *owner = (struct owner){slot, generation};
        return FOUND;
    }
    return OTHER;
}

// The record at which the search for a key begins is about to be read.
static void expect(const struct table *table, uint32_t home) {
    __builtin_prefetch(table->records + (size_t)(home & table->mask) * RECORD_BYTES);
}

static bool find(const struct table *table, const uint8_t *key, uint32_t home, struct owner *owner) {
    for (int i = 0; i < READ_RETRIES; i++) {
        uint32_t before = __atomic_load_n(table->epoch, __ATOMIC_ACQUIRE);
        for (uint32_t probe = 0; probe < table->max_probe; probe++) {
            size_t index = (home + probe) & table->mask;
            enum found found = read_record(table->records + index * RECORD_BYTES, key, owner);
            if (found == FOUND)
                return true;
            if (found == ABSENT)
                break;
        }
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        // A removal moves records: look again if one was under way (the epoch is odd) or came between.
        if (!(before & 1) && __atomic_load_n(table->epoch, __ATOMIC_RELAXED) == before)
            return false;
    }
    return false;
}

// ---- decisions: relay/route.py Router.decide ------------------------------------------------------

// shm/stun.py server_ufrag: our ufrag in the first USERNAME, "ours:theirs"; NULL where there is none.
static const uint8_t *server_ufrag(const uint8_t *data, size_t size, size_t *ufrag_size) {
    if (size & 3 || (size_t)(data[2] << 8 | data[3]) != size - STUN_HEADER_BYTES)
        return NULL;
    size_t at = STUN_HEADER_BYTES;
    while (at + 4 <= size) {
        unsigned kind = data[at] << 8 | data[at + 1];
        size_t length = data[at + 2] << 8 | data[at + 3];
        at += 4;
        if (kind == 0x0006) { // USERNAME, RFC 8489 §14.3
            if (length > MAX_USERNAME_BYTES || at + length > size)
                return NULL;
            const uint8_t *colon = memchr(data + at, ':', length);
            *ufrag_size = colon ? (size_t)(colon - (data + at)) : 0;
            return colon ? data + at : NULL;
        }
        if (kind == 0x0008) // MESSAGE-INTEGRITY: what follows does not count (§14.5)
            return NULL;
        at += (length + 3) & ~(size_t)3;
    }
    return NULL;
}

// FORWARD and the owner, or the counter of the drop. Law 1: a Binding request goes by its ufrag, all else
// by its flow, whose search begins at `home`. First byte: RFC 7983 §7, RFC 9443 §3.
static int decide(const struct fastpath *f, const uint8_t *data, size_t size, const uint8_t *path,
                  uint32_t home, struct owner *owner) {
    if (!size)
        return DROPPED_EMPTY;
    if (size > MAX_DATAGRAM_BYTES)
        return DROPPED_OVERSIZED;
    if (data[0] <= 3) {
        static const uint8_t cookie[4] = {0x21, 0x12, 0xa4, 0x42};
        if (size < STUN_HEADER_BYTES || memcmp(data + 4, cookie, sizeof cookie))
            return DROPPED_MALFORMED_STUN;
        if (data[0] == 0 && data[1] == 1) {
            size_t ufrag_size;
            const uint8_t *ufrag = server_ufrag(data, size, &ufrag_size);
            if (!ufrag)
                return DROPPED_MALFORMED_STUN;
            if (ufrag_size != KEY_BYTES || !find(&f->routes, ufrag, hash(ufrag), owner))
                return DROPPED_UNKNOWN_UFRAG;
            return FORWARD;
        }
    } else if (data[0] < 20 || (data[0] > 63 && data[0] < 128) || data[0] > 191) {
        return DROPPED_NOT_WEBRTC;
    }
    return find(&f->flows, path, home, owner) ? FORWARD : DROPPED_UNKNOWN_FLOW;
}

// ---- links to the transceivers: relay/links.py ----------------------------------------------------

static int connect_link(const struct fastpath *f, struct owner owner, uint64_t now) {
    struct link *link = &f->links[owner.slot];
    if (link->refused_generation == owner.generation && now < link->retry_at)
        return 0;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/frames-%u-%u.sock", f->run_dir,
                          owner.slot, owner.generation);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int bytes = SEND_BUFFER_BYTES; // capped by the system's wmem_max
    if (fd > 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    if (fd <= 0 || length >= (int)sizeof address.sun_path ||
        connect(fd, (struct sockaddr *)&address, sizeof address)) {
        if (fd > 0)
            close(fd);
        link->refused_generation = owner.generation;
        link->retry_at = now + RETRY_NS;
        return 0;
    }
    if (link->fd)
        close(link->fd); // an earlier generation's
    link->generation = owner.generation;
    link->fd = fd;
    return fd;
}

// Hands a frame of `count` packets on, or counts why not. A full queue drops the newest and never blocks.
static void send_frame(const struct fastpath *f, struct work *w, struct owner owner, const void *frame,
                       size_t bytes, int count, uint64_t now) {
    struct link *link = &f->links[owner.slot];
    int fd = link->fd && link->generation == owner.generation ? link->fd : connect_link(f, owner, now);
    if (!fd) {
        w->counts[DROPPED_TRANSCEIVER_GONE] += (uint64_t)count;
        return;
    }
    if (send(fd, frame, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
        w->counts[FRAMES_SENT]++;
        w->counts[PACKETS_FORWARDED] += (uint64_t)count;
    } else if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS || errno == ENOMEM) {
        w->counts[DROPPED_QUEUE_FULL] += (uint64_t)count;
    } else {
        close(fd);
        link->fd = 0;
        link->refused_generation = owner.generation;
        link->retry_at = now + RETRY_NS;
        w->counts[DROPPED_TRANSCEIVER_GONE] += (uint64_t)count;
    }
}

// ---- the loop -------------------------------------------------------------------------------------

static size_t entry_bytes(const struct work *w, int i) {
    return ENTRY_HEADER_BYTES + w->messages[i].msg_len;
}

static uint8_t *path_of(struct work *w, int i) {
    return w->packets[i].header + ENTRY_HEADER_BYTES - PATH_BYTES;
}

// Writes the entry headers, and has the memory fetched that `place` will look at.
static void describe(const struct fastpath *f, struct work *w, const struct input *input, int received) {
    for (int i = 0; i < received; i++) {
        uint8_t *header = w->packets[i].header, *path = path_of(w, i);
        size_t size = w->messages[i].msg_len;
        header[0] = (uint8_t)size;
        header[1] = (uint8_t)(size >> 8);
        header[2] = input->relay;
        header[3] = 0;
        path[0] = input->local;
        path[1] = 0;
        memcpy(path + 2, &w->names[i].sin6_port, 2); // at the same place for both families
        if (input->v6) {
            memcpy(path + 4, &w->names[i].sin6_addr, 16);
        } else {
            static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff}; // ::ffff:a.b.c.d
            memcpy(path + 4, mapped, sizeof mapped);
            memcpy(path + 16, &((const struct sockaddr_in *)&w->names[i])->sin_addr, 4);
        }
        w->homes[i] = hash(path);
        expect(&f->flows, w->homes[i]);
        w->messages[i].msg_hdr.msg_namelen = sizeof w->names[i]; // for a socket of another family
        w->counts[BYTES_RECEIVED] += size;
    }
    w->counts[PACKETS_RECEIVED] += (uint64_t)received;
}

// Decides for each of the batch; what is to be forwarded is `placed` after it.
static void place(const struct fastpath *f, struct work *w, int received) {
    for (int i = 0; i < received; i++) {
        size_t size = w->messages[i].msg_len;
        int reason = decide(f, w->packets[i].data, size, path_of(w, i), w->homes[i], &w->owners[i]);
        w->placed[i] = reason == FORWARD && w->owners[i].slot < MAX_TRANSCEIVERS;
        if (!w->placed[i])
            w->counts[reason == FORWARD ? DROPPED_TRANSCEIVER_GONE : reason]++;
    }
}

// One frame for each transceiver of the batch (more where it would be too long), its packets in order. They
// are copied together, which costs less than the kernel's look at a list of them; a lone one lies ready.
static void deliver(const struct fastpath *f, struct work *w, int received, uint64_t now) {
    for (int first = 0; first < received; first++) {
        if (!w->placed[first])
            continue;
        struct owner owner = w->owners[first];
        int count = 0, last = first;
        size_t bytes = 0;
        for (int i = first; i < received; i++) {
            if (!w->placed[i] || w->owners[i].slot != owner.slot || w->owners[i].generation != owner.generation)
                continue;
            w->placed[i] = false;
            if (bytes + entry_bytes(w, i) > MAX_FRAME_BYTES) {
                send_frame(f, w, owner, w->frame, bytes, count, now);
                count = 0;
                bytes = 0;
            }
            if (count == 1)
                memcpy(w->frame, &w->packets[last], bytes);
            if (count)
                memcpy(w->frame + bytes, &w->packets[i], entry_bytes(w, i));
            last = i;
            count++;
            bytes += entry_bytes(w, i);
        }
        const void *frame = count == 1 ? (const void *)&w->packets[last] : w->frame;
        send_frame(f, w, owner, frame, bytes, count, now);
    }
}

static int drain(const struct fastpath *f, struct work *w, const struct input *input, uint64_t now) {
    int received = recvmmsg(input->fd, w->messages, BATCH, MSG_DONTWAIT, NULL);
    if (received <= 0)
        return 0;
    describe(f, w, input, received);
    place(f, w, received);
    deliver(f, w, received, now);
    return received;
}

// Packets received last: whoever has seen them counted may rely on the rest.
static void count(const struct fastpath *f, struct work *w) {
    for (int i = COUNTERS - 1; i >= PACKETS_RECEIVED; i--) {
        if (w->counts[i])
            __atomic_store_n(&f->counters[i], f->counters[i] + w->counts[i], __ATOMIC_RELEASE);
        w->counts[i] = 0;
    }
}

// A sign of life, as long as the process's other loop, which hears control, gives one too (law 6).
static void beat(const struct fastpath *f, struct work *w, uint64_t now) {
    if (now - w->beat_at < BEAT_NS)
        return;
    w->beat_at = now;
    if (now - __atomic_load_n(f->other_loop_ns, __ATOMIC_RELAXED) < OTHER_LOOP_NS)
        __atomic_store_n(&f->counters[HEARTBEAT_NS], now, __ATOMIC_RELAXED);
}

// relay/pace.py: whether waiting will bring another packet.
static bool worth_waiting(const struct fastpath *f, struct work *w, int drained, uint64_t now) {
    double elapsed = (double)(now - w->looked_at), coalesce = f->coalesce_us * 1e3;
    w->looked_at = now;
    if (!f->coalesce_us)
        return false;
    double rate = drained / (elapsed > 1e3 ? elapsed : 1e3);
    w->rate += (elapsed > IDLE_WAITS * coalesce ? 1.0 : 0.25) * (rate - w->rate);
    return w->rate * coalesce >= 1.0;
}

// The memory of one call; buffers are touched now, so that a flood grows nothing later.
static struct work *make_work(void) {
    struct work *w = malloc(sizeof *w);
    if (!w)
        return NULL;
    memset(w, 0, sizeof *w);
    for (int i = 0; i < BATCH; i++) {
        w->into[i] = (struct iovec){w->packets[i].data, MAX_DATAGRAM_BYTES + 1};
        w->messages[i].msg_hdr = (struct msghdr){
            .msg_name = &w->names[i],
            .msg_namelen = sizeof w->names[i],
            .msg_iov = &w->into[i],
            .msg_iovlen = 1,
        };
    }
    w->looked_at = now_ns();
    return w;
}

int fastpath_version(void) { return VERSION; }

// Forwards until `stop_fd` is readable; 0, or the errno of what made it impossible.
int fastpath_run(const struct fastpath *f) {
    struct pollfd polled[MAX_SOCKETS + 1];
    struct work *w = make_work();
    if (!w || f->input_count > MAX_SOCKETS) {
        free(w);
        return ENOMEM;
    }
    prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0); // the default lets every wait last 50 µs longer
    for (uint32_t i = 0; i < f->input_count; i++)
        polled[i] = (struct pollfd){f->inputs[i].fd, POLLIN, 0};
    polled[f->input_count] = (struct pollfd){f->stop_fd, POLLIN, 0};
    const struct timespec wait = {0, (long)f->coalesce_us * 1000};
    for (;;) {
        int ready = poll(polled, f->input_count + 1, BEAT_MS);
        if (polled[f->input_count].revents)
            break;
        uint64_t now = now_ns();
        beat(f, w, now);
        if (ready <= 0)
            continue;
        w->counts[WAKEUPS]++;
        for (int look = 0; look < MAX_LOOKS; look++) { // what woke it leaves before any wait
            int drained = 0;
            bool full = false;
            for (uint32_t i = 0; i < f->input_count; i++) {
                int received = drain(f, w, &f->inputs[i], now);
                drained += received;
                full |= received == BATCH;
            }
            now = now_ns();
            beat(f, w, now);
            if (!worth_waiting(f, w, drained, now))
                break;
            if (!full)
                nanosleep(&wait, NULL);
            now = now_ns();
        }
        count(f, w);
    }
    free(w);
    return 0;
}
