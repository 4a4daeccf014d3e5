// What voice.c and Python share: Python reads this file with cffi, so it has no directives but numbers. The
// memory is Python's; each fact stands here once, whoever changes it.

#define VOICE_VERSION 1
#define VOICE_QUEUE 64          // packets, or frames, that are handled together
#define VOICE_PACKET_BYTES 1500 // the longest RTP packet, srtp.py
#define VOICE_TRAILER_BYTES 148 // that libsrtp may add, srtp.py
#define VOICE_MAX_BYTES 1648    // both
#define VOICE_SAMPLES 960       // 20 ms at the highest rate
#define VOICE_LINES 2048        // calls that can be connected
#define VOICE_SLOTS 4096        // of the table of paths, a power of two, at most half full
#define VOICE_LOCALS 256        // listen addresses
#define VOICE_PATH_BYTES 20     // shm/path.py

// The reception of one source (RFC 3550 A.1, A.3, A.8).
struct voice_stream {
    int64_t base;    // the first sequence number
    int64_t highest; // 16 bits of sequence, cycles above
    int64_t received;
    double jitter;       // of the RTP clock
    double last_transit; // where `timed`
    uint32_t ssrc;
    uint8_t timed;
};

// The decoder of a call, and the packet that is next.
struct voice_ear {
    void *decoder; // OpusDecoder; NULL: Python decodes
    uint32_t ssrc;
    uint32_t timestamp;
    uint16_t sequence;
    uint8_t begun; // the three above are known
    uint8_t busy;  // packets are held, or a part of a frame
    uint8_t torn;  // a packet is missing before the one that is next
    int32_t samples; // of 20 ms
    int32_t ticks;   // of the RTP clock, a sample
};

// One call's RTP, both ways, and the path it goes by.
struct voice_line {
    uint32_t owner;
    uint8_t connected; // to `path`
    uint8_t path[VOICE_PATH_BYTES];
    void *rx; // srtp_t
    void *tx; // srtp_t; NULL: nothing may be sent
    double media_at;
    uint8_t payload_type;
    // In.
    struct voice_ear *ear;
    struct voice_stream *stream; // NULL before the first packet
    uint64_t octets_in;          // of payload, as is sent_octets
    // Out (RFC 3550 §5.1).
    uint32_t ssrc;
    uint32_t timestamp;
    uint16_t sequence;
    uint8_t started;
    uint8_t given; // the latest was an agent's own packet, with these numbers:
    int64_t given_sequence;
    int64_t given_timestamp;
    double sent_at; // when the latest was due
    double rest;    // frames by which the clock is ahead of the timestamp
    uint64_t sent;
    uint64_t sent_octets;
    uint8_t failed; // libopus has refused a frame
};

// What a call has to say: a ring of PCM, and its encoder.
struct voice_mouth {
    struct voice_line *line; // NULL: Python sends
    void *encoder;           // OpusEncoder; NULL: silent
    int16_t *ring;           // whole frames, so that none wraps
    int64_t first;           // slot of the first turn
    int64_t played;          // samples of this utterance
    uint64_t frames;         // said
    int32_t capacity;        // in samples, as all of these
    int32_t samples;         // of 20 ms
    int32_t read;
    int32_t write;
    int32_t level;     // that wait
    int32_t held;      // of the ring's room, for what a resampler still has
    int32_t wake_room; // at which a writer that was refused is woken
    int32_t least;     // bytes; a payload so short need not be sent (DTX)
    int32_t load;      // how cheaply the encoder is set to encode
    uint8_t stale;     // the encoder is to be set anew
    uint8_t fed;       // written to since the latest frame
    uint8_t refused;   // a writer waits for room
};

struct voice_libraries {
    int (*decode)(void *, const unsigned char *, int32_t, int16_t *, int, int);
    int32_t (*encode)(void *, const int16_t *, int, unsigned char *, int32_t);
    int (*samples)(const unsigned char *, int32_t, int32_t);
    int (*unprotect)(void *, void *, int *);
    int (*protect)(void *, void *, int *);
};

// A packet that has been decrypted.
struct voice_packet {
    struct voice_line *line;
    double at;
    int32_t bytes;
};

// 20 ms to be said.
struct voice_frame {
    struct voice_line *line;
    void *encoder;
    const int16_t *pcm;
    double due;
    int32_t samples;
    int32_t least; // as of the mouth
};

struct voice_slot {
    struct voice_line *line;
    uint8_t path[VOICE_PATH_BYTES];
};

// Of a process.
struct voice {
    struct voice_libraries libraries;
    int32_t fds[VOICE_LOCALS];    // public sockets, by listen address; -1: none
    uint8_t v6[VOICE_LOCALS];     // of which family they are
    int32_t lines;                // connected
    int32_t packets;              // queued
    int32_t frames;               // queued
    uint32_t refused;             // packets of a call that are not authentic
    int32_t left_out;             // of the latest voice_turn
    uint32_t sent, not_sent;      // packets, until Python has counted them
    struct voice_packet packet[VOICE_QUEUE];
    uint32_t owner[VOICE_QUEUE];  // of each packet
    int32_t samples[VOICE_QUEUE]; // of PCM that voice_decode has made of it; 0: it is for Python to judge
    struct voice_frame frame[VOICE_QUEUE];
    uint8_t plain[VOICE_QUEUE][VOICE_MAX_BYTES];
    uint8_t secret[VOICE_QUEUE][VOICE_MAX_BYTES];
    int16_t pcm[VOICE_QUEUE][VOICE_SAMPLES];
    int32_t left[VOICE_QUEUE];    // of the latest voice_sort: for Python
    struct voice_slot slots[VOICE_SLOTS];
};

int voice_version(void);
int voice_size(void);
int voice_connect(struct voice *voice, struct voice_line *line, const uint8_t *path);
void voice_forget(struct voice *voice, struct voice_line *line);
int voice_take(struct voice *voice, const uint8_t *data, int bytes, const uint8_t *path);
int voice_sort(struct voice *voice, void *messages, int count, int local);
int voice_decode(struct voice *voice);
int voice_turn(struct voice *voice, struct voice_mouth **mouths, int count, int64_t slot, double due, int load,
               int32_t *left);
void voice_speak(struct voice *voice);
