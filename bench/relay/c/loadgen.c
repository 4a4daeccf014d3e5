/* Clients and transceivers in one busy-polling thread, so that both ends have one clock and the
   generator knows at once what has arrived. Pin it to a core that the relay does not use.

   --rate 0: saturated. The first --hold processes (the relay's) are stopped while --window packets are
   put into its queue, then go on until all have come through; so the queue never runs empty, however
   fast the relay is. With --hold 0 nobody is stopped, and --window packets are kept under way.
   --rate R: evenly spread, R packets a second, at most --window under way.
   --count N: N packets, then the end. Prints one line of JSON about the window between --warm and
   --warm + --seconds, and about the whole run (what was lost, seen twice or led astray). */
#define _GNU_SOURCE
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "sender.h"
#include "sink.h"

#define MAX_PIDS 16
#define STALL_NS 20000000u      /* saturated: after so long without an arrival, packets are lost */
#define BEHIND_NS 5000000u      /* paced: after a longer pause of ours, begin a new schedule */
#define REST_NS 200000          /* saturated: between two looks at the sinks */
#define SETTLE_NS 300000000u    /* at the end: so long without an arrival, and all has arrived */
#define SATURATED_PER_S 2000000u

static struct sender sender = {.target_count = 0, .packet_bytes = 172};
static double warm_s = 0.5, seconds = 2, rate;
static uint64_t window = 1024, count;
static int cpu = -1, framed, hold, sink_fds[MAX_SINKS], sink_count, pids[MAX_PIDS], pid_count;

struct snapshot {
    uint64_t now, held, cpu[MAX_PIDS], self, sent, send_cpu, machine_busy, machine_steal;
    struct sink_counts sink;
};

static uint64_t held_ns; /* how long the relay has been stopped */

static struct snapshot snapshot(void)
{
    struct snapshot s = {.now = clock_ns(CLOCK_MONOTONIC), .held = held_ns};
    unsigned long long user, nice, system, idle, wait, irq, soft, steal;
    FILE *stat = fopen("/proc/stat", "r");
    if (stat && fscanf(stat, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system,
                       &idle, &wait, &irq, &soft, &steal) == 8) {
        uint64_t tick = 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK);
        s.machine_busy = (user + nice + system + irq + soft) * tick;
        s.machine_steal = steal * tick;
    }
    if (stat)
        fclose(stat);
    for (int i = 0; i < pid_count; i++) {
        clockid_t id;
        if (clock_getcpuclockid(pids[i], &id) == 0)
            s.cpu[i] = clock_ns(id);
    }
    s.self = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    s.sent = sender.sent;
    s.send_cpu = sender.cpu_ns;
    s.sink = sink;
    return s;
}

static int split(char *list, int *into, int room)
{
    int n = 0;
    for (char *word = strtok(list, ","); word && n < room; word = strtok(NULL, ","))
        into[n++] = atoi(word);
    return n;
}

static void read_ufrags(const char *path)
{
    FILE *file = fopen(path, "r");
    char line[64];
    sender.ufrags = calloc(sender.flows.count, UFRAG_BYTES);
    if (!file || !sender.ufrags)
        die(path);
    for (uint32_t i = 0; i < sender.flows.count && fgets(line, sizeof line, file); i++)
        memcpy(sender.ufrags[i], line, UFRAG_BYTES);
    fclose(file);
}

static void add_target(const char *text)
{
    char host[64];
    unsigned port;
    struct sockaddr_in *to = &sender.targets[sender.target_count];
    if (sender.target_count == MAX_SINKS || sscanf(text, "%63[^:]:%u", host, &port) != 2)
        exit(2);
    *to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &to->sin_addr) != 1)
        exit(2);
    sender.target_count++;
}

static void options(int argc, char **argv)
{
    enum { TO, FDS, FRAMED, CHANNEL, BASE, PORT, FLOWS, BYTES, STUN, UFRAGS, RATE, WINDOW, COUNT,
           WARM, SECONDS, CPU, PIDS, HOLD };
    static const struct option known[] = {
        {"to", 1, 0, TO}, {"sink-fds", 1, 0, FDS}, {"framed", 0, 0, FRAMED},
        {"channel-data", 0, 0, CHANNEL}, {"base", 1, 0, BASE}, {"port", 1, 0, PORT},
        {"flows", 1, 0, FLOWS}, {"bytes", 1, 0, BYTES}, {"stun", 1, 0, STUN},
        {"ufrags", 1, 0, UFRAGS}, {"rate", 1, 0, RATE}, {"window", 1, 0, WINDOW},
        {"count", 1, 0, COUNT}, {"warm", 1, 0, WARM}, {"seconds", 1, 0, SECONDS},
        {"cpu", 1, 0, CPU}, {"pids", 1, 0, PIDS}, {"hold", 1, 0, HOLD}, {0, 0, 0, 0}};
    const char *ufrags = NULL;
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
        case TO: add_target(optarg); break;
        case FDS: sink_count = split(optarg, sink_fds, MAX_SINKS); break;
        case FRAMED: framed = 1; break;
        case CHANNEL: sender.channel_data = 1; break;
        case BASE: sender.flows.base = ntohl(inet_addr(optarg)); break;
        case PORT: sender.flows.port = (uint16_t)atoi(optarg); break;
        case FLOWS: sender.flows.count = (uint32_t)atoi(optarg); break;
        case BYTES: sender.packet_bytes = atoi(optarg); break;
        case STUN: sender.stun_percent = atoi(optarg); break;
        case UFRAGS: ufrags = optarg; break;
        case RATE: rate = atof(optarg); break;
        case WINDOW: window = strtoull(optarg, NULL, 10); break;
        case COUNT: count = strtoull(optarg, NULL, 10); break;
        case WARM: warm_s = atof(optarg); break;
        case SECONDS: seconds = atof(optarg); break;
        case CPU: cpu = atoi(optarg); break;
        case PIDS: pid_count = split(optarg, pids, MAX_PIDS); break;
        case HOLD: hold = atoi(optarg); break;
        default: exit(2);
        }
    }
    if (!sender.target_count || !sink_count || !sender.flows.count || window < BATCH ||
        sender.packet_bytes < RTP_STAMP_AT + (int)sizeof(struct stamp) ||
        sender.packet_bytes > MAX_PACKET - 4 || hold > pid_count || (sender.stun_percent && !ufrags)) {
        fprintf(stderr, "loadgen: bad arguments\n");
        exit(2);
    }
    if (ufrags)
        read_ufrags(ufrags);
}

static uint64_t given_up; /* packets under way that will not arrive any more */

static uint64_t under_way(void)
{
    uint64_t gone = sink.delivered + given_up;
    return sender.sent > gone ? sender.sent - gone : 0; /* one given up may yet arrive */
}

/* How many packets to send now: what is due, and what the window has room for. */
static int due(uint64_t now, uint64_t *schedule, uint64_t *scheduled)
{
    uint64_t flying = under_way(), room = window > flying ? window - flying : 0, want = BATCH;
    if (count && sender.sent + want > count)
        want = count - sender.sent;
    if (rate > 0) {
        uint64_t until = (uint64_t)((double)(now - *schedule) * rate / 1e9);
        uint64_t late = until > *scheduled ? until - *scheduled : 0;
        if ((double)late > rate * BEHIND_NS / 1e9 + BATCH) {
            *schedule = now;
            *scheduled = 0;
            late = 0;
        }
        want = late < want ? late : want;
        want = room < want ? room : want;
        *scheduled += want;
    } else if (room < want) {
        want = 0; /* whole batches */
    }
    return (int)want;
}

static void signal_relay(int number)
{
    for (int i = 0; i < hold; i++)
        if (kill(pids[i], number))
            die("kill");
}

/* One burst into a stopped relay, and its way through. */
static void burst(void)
{
    uint64_t started = clock_ns(CLOCK_MONOTONIC), arrival, now;
    signal_relay(SIGSTOP);
    for (uint64_t n = 0; n < window; n += BATCH)
        sender_send(&sender, BATCH);
    signal_relay(SIGCONT);
    arrival = clock_ns(CLOCK_MONOTONIC);
    held_ns += arrival - started;
    while (under_way()) {
        /* Polling would slow the relay down where its core and ours are threads of one. */
        nanosleep(&(struct timespec){.tv_nsec = REST_NS}, NULL);
        now = clock_ns(CLOCK_MONOTONIC);
        if (sink_drain())
            arrival = now;
        else if (now - arrival > STALL_NS)
            given_up = sender.sent - sink.delivered;
    }
}

static void report(const struct snapshot *a, const struct snapshot *b, uint64_t starved,
                   uint64_t turns)
{
    size_t n;
    const uint32_t *ns = sink_latencies(&n);
    printf("{\"elapsed_s\":%.6f,\"held_s\":%.6f,\"window_sent\":%lu,\"window_delivered\":%lu,\"window_reads\":%lu",
           (double)(b->now - a->now) / 1e9, (double)(b->held - a->held) / 1e9, b->sent - a->sent,
           b->sink.delivered - a->sink.delivered, b->sink.reads - a->sink.reads);
    printf(",\"pid_cpu_s\":[");
    for (int i = 0; i < pid_count; i++)
        printf("%s%.9f", i ? "," : "", (double)(b->cpu[i] - a->cpu[i]) / 1e9);
    printf("],\"send_cpu_s\":%.9f,\"sink_cpu_s\":%.9f,\"self_cpu_s\":%.9f",
           (double)(b->send_cpu - a->send_cpu) / 1e9,
           (double)(b->sink.cpu_ns - a->sink.cpu_ns) / 1e9, (double)(b->self - a->self) / 1e9);
    printf(",\"machine_busy_s\":%.3f,\"machine_steal_s\":%.3f,\"starved\":%.4f",
           (double)(b->machine_busy - a->machine_busy) / 1e9,
           (double)(b->machine_steal - a->machine_steal) / 1e9,
           turns ? (double)starved / (double)turns : 0.0);
    if (n) /* never the rank behind the last */
        printf(",\"samples\":%zu,\"p50_us\":%.3f,\"p99_us\":%.3f,\"p999_us\":%.3f,\"max_us\":%.3f",
               n, ns[n / 2] / 1e3, ns[n * 99 / 100] / 1e3, ns[n * 999 / 1000] / 1e3,
               ns[n - 1] / 1e3);
    printf(",\"sent\":%lu,\"send_failed\":%lu,\"delivered\":%lu,\"duplicates\":%lu,"
           "\"misdelivered\":%lu,\"reordered\":%lu,\"bad\":%lu,\"per_sink\":[",
           sender.sent, sender.failed, sink.delivered, sink.duplicates, sink.misdelivered,
           sink.reordered, sink.bad);
    for (int i = 0; i < sink_count; i++)
        printf("%s%lu", i ? "," : "", sink.per_sink[i]);
    printf("]}\n");
}

int main(int argc, char **argv)
{
    options(argc, argv);
    if (cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        if (sched_setaffinity(0, sizeof set, &set))
            die("sched_setaffinity");
    }
    double per_s = rate > 0 ? rate : SATURATED_PER_S;
    uint64_t most = count ? count : (uint64_t)(per_s * (warm_s + seconds + 1)) + BATCH;
    sink_open(sink_fds, sink_count, framed, &sender.flows,
              (uint32_t)(most / sender.flows.count) + 2,
              count ? 0 : (size_t)(rate * (seconds + 1)) + 1);
    sender_open(&sender);

    uint64_t start = clock_ns(CLOCK_MONOTONIC), measure = start + (uint64_t)(warm_s * 1e9);
    uint64_t end = measure + (uint64_t)(seconds * 1e9), schedule = start, scheduled = 0;
    uint64_t arrival = start, now, starved = 0, turns = 0;
    struct snapshot before = {0}, after;
    int measuring = 0;
    for (;;) {
        now = clock_ns(CLOCK_MONOTONIC);
        if (!measuring && now >= measure) {
            measuring = 1;
            before = snapshot();
            sink_record(rate > 0);
        }
        if (count ? sender.sent >= count : now >= end)
            break;
        if (hold && rate <= 0) {
            burst();
            continue;
        }
        int batch = due(now, &schedule, &scheduled);
        if (batch > 0) {
            turns += (uint64_t)measuring;
            starved += measuring && under_way() < BATCH;
            sender_send(&sender, batch);
        }
        if (sink_drain())
            arrival = now;
        else if (now - arrival > STALL_NS && under_way() + BATCH > window) {
            if (count && now - arrival < 50ull * STALL_NS)
                continue; /* an exact count: better slow than wrong */
            given_up = sender.sent - sink.delivered;
            arrival = now;
        }
    }
    after = snapshot();
    sink_record(0);
    for (arrival = now; now - arrival < SETTLE_NS && sink.delivered < sender.sent;) {
        now = clock_ns(CLOCK_MONOTONIC);
        if (sink_drain())
            arrival = now;
    }
    for (uint64_t until = now + 10000000u; clock_ns(CLOCK_MONOTONIC) < until;)
        sink_drain(); /* a second copy would come late */
    report(&before, &after, starved, turns);
    return 0;
}
