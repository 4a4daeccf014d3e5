// Kernel steering: picks the socket of the SO_REUSEPORT group that gets a datagram, so that packets of
// established calls reach their transceiver without waking a relay. What it cannot place goes to a relay,
// which decides as always (relay/route.py); the two must never disagree about an owner.
//
// One object is loaded for each listen address. Maps are written by control, together with the tables.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_RELAYS 64          // shm/counters.py
#define MAX_TRANSCEIVERS 256   // shm/counters.py
#define MAX_DATAGRAM_BYTES 2048 // shm/frame.py
#define UFRAG_BYTES 20         // shm/ufrag.py
#define MAX_USERNAME_BYTES 513 // shm/stun.py
#define UDP_HEADER_BYTES 8
#define STUN_HEADER_BYTES 20
#define MAX_ATTRIBUTES 8 // looked at for USERNAME; browsers send it first

enum { BY_FLOW, BY_UFRAG, TO_RELAY, NO_RELAY, COUNTERS };

struct path { // shm/path.py, with the listen address left at 0
    __u8 local, reserved;
    __be16 port;
    __u8 address[16];
};

struct ufrag {
    __u8 text[UFRAG_BYTES];
};

struct owner {
    __u32 slot, generation;
};

// Relay sockets stand at their index, transceiver sockets at MAX_RELAYS + slot.
struct {
    __uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
    __uint(max_entries, MAX_RELAYS + MAX_TRANSCEIVERS);
    __type(key, __u32);
    __type(value, __u64);
} sockets SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 65536); // set at load
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct path);
    __type(value, struct owner);
} flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 65536); // set at load
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct ufrag);
    __type(value, struct owner);
} routes SEC(".maps");

// Slot -> generation that is alive, 0 for none: voids all of a dead transceiver's entries at once.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, MAX_TRANSCEIVERS);
    __type(key, __u32);
    __type(value, __u32);
} generations SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} relays SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, COUNTERS);
    __type(key, __u32);
    __type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 what) {
    __u64 *counter = bpf_map_lookup_elem(&counters, &what);
    if (counter)
        (*counter)++;
}

// A relay by the hash of the addresses. Never the kernel's own choice: it could be a transceiver.
static __always_inline int to_relay(struct sk_reuseport_md *md) {
    __u32 zero = 0, *number = bpf_map_lookup_elem(&relays, &zero);
    if (number && *number) {
        __u32 index = md->hash % *number;
        if (index < MAX_RELAYS && !bpf_sk_select_reuseport(md, &sockets, &index, 0)) {
            count(TO_RELAY);
            return SK_PASS;
        }
    }
    count(NO_RELAY);
    return SK_DROP;
}

static __always_inline int to_owner(struct sk_reuseport_md *md, struct owner *owner, __u32 how) {
    if (!owner)
        return to_relay(md);
    __u32 slot = owner->slot;
    __u32 *alive = bpf_map_lookup_elem(&generations, &slot);
    if (!alive || !*alive || *alive != owner->generation)
        return to_relay(md);
    __u32 index = MAX_RELAYS + slot;
    if (bpf_sk_select_reuseport(md, &sockets, &index, 0))
        return to_relay(md);
    count(how);
    return SK_PASS;
}

// A Binding request goes by the ufrag in its first USERNAME (law 1), whatever its address.
// The same walk as shm/stun.py server_ufrag; what is unusual is left to the relay.
static __always_inline int by_ufrag(struct sk_reuseport_md *md, __u32 end) {
    __u32 at = UDP_HEADER_BYTES + STUN_HEADER_BYTES;
    for (int i = 0; i < MAX_ATTRIBUTES; i++) {
        __u8 attribute[4];
        if (at + 4 > end || bpf_skb_load_bytes(md, at, attribute, 4))
            break;
        __u32 kind = attribute[0] << 8 | attribute[1];
        __u32 length = attribute[2] << 8 | attribute[3];
        at += 4;
        if (kind == 0x0006) { // USERNAME, RFC 8489 §14.3: "ours:theirs"
            struct ufrag name;
            __u8 colon;
            if (length <= UFRAG_BYTES || length > MAX_USERNAME_BYTES || at + length > end)
                break;
            if (bpf_skb_load_bytes(md, at, &name, UFRAG_BYTES))
                break;
            if (bpf_skb_load_bytes(md, at + UFRAG_BYTES, &colon, 1) || colon != ':')
                break;
            return to_owner(md, bpf_map_lookup_elem(&routes, &name), BY_UFRAG);
        }
        if (kind == 0x0008) // MESSAGE-INTEGRITY: what follows does not count (§14.5)
            break;
        at += (length + 3) & ~3U;
        if (at > end)
            break;
    }
    return to_relay(md);
}

static __always_inline int by_flow(struct sk_reuseport_md *md) {
    struct path path = {};
    if (bpf_skb_load_bytes(md, 0, &path.port, 2)) // the data begins at the UDP header
        return to_relay(md);
    if (md->eth_protocol == bpf_htons(ETH_P_IP)) {
        path.address[10] = path.address[11] = 0xff; // ::ffff:a.b.c.d
        if (bpf_skb_load_bytes_relative(md, offsetof(struct iphdr, saddr), path.address + 12, 4,
                                        BPF_HDR_START_NET))
            return to_relay(md);
    } else if (bpf_skb_load_bytes_relative(md, offsetof(struct ipv6hdr, saddr), path.address, 16,
                                           BPF_HDR_START_NET)) {
        return to_relay(md);
    }
    return to_owner(md, bpf_map_lookup_elem(&flows, &path), BY_FLOW);
}

SEC("sk_reuseport")
int steer(struct sk_reuseport_md *md) {
    __u32 end = md->len; // from the UDP header
    __u8 head[STUN_HEADER_BYTES];
    if (end <= UDP_HEADER_BYTES || end > UDP_HEADER_BYTES + MAX_DATAGRAM_BYTES)
        return to_relay(md);
    if (bpf_skb_load_bytes(md, UDP_HEADER_BYTES, head, 1))
        return to_relay(md);
    // First byte, RFC 7983 §7 and RFC 9443 §3.
    if ((head[0] >= 20 && head[0] <= 63) || (head[0] >= 128 && head[0] <= 191))
        return by_flow(md);
    if (head[0] > 3)
        return to_relay(md);
    if (bpf_skb_load_bytes(md, UDP_HEADER_BYTES, head, STUN_HEADER_BYTES))
        return to_relay(md);
    if (head[4] != 0x21 || head[5] != 0x12 || head[6] != 0xa4 || head[7] != 0x42)
        return to_relay(md);
    if (head[0] || head[1] != 1) // a response or an indication
        return by_flow(md);
    __u32 length = head[2] << 8 | head[3];
    if (length & 3 || UDP_HEADER_BYTES + STUN_HEADER_BYTES + length != end)
        return to_relay(md);
    return by_ufrag(md, end);
}

char _license[] SEC("license") = "Apache-2.0";
