"""What doctor knows before it judges; gathered by `gather_*`, made up by tests."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Wanted:
    """What `voicerelay start` would do. `hosts`: the listen addresses, expanded; empty with `hosts_error`."""

    port: int
    hosts: tuple[str, ...]
    public: tuple[str, ...]
    http_host: str
    http_port: int
    relays: int
    transceivers: int
    max_sessions: int
    capacity: int
    steering: str = "auto"
    open: bool = False
    key_file: str = ""
    hosts_error: str = ""

    @property
    def sessions(self) -> int:
        """Calls that all transceivers may have together."""
        return min(self.max_sessions * self.transceivers, self.capacity)


@dataclass(frozen=True)
class Binding:
    """A port as a bind sees it. `error`: empty when it is free, else the kernel's reason."""

    host: str
    error: str = ""
    in_use: bool = False


@dataclass(frozen=True)
class Mapping:
    """What a STUN server says. `source`: our own address and port, `mapped`: as the server saw them.

    `unsolicited`: whether its answer from another port came through; None when it has no other.
    """

    server: str
    source: str = ""
    mapped: str = ""
    public_port: bool = False  # asked from the public port itself
    unsolicited: bool | None = None
    error: str = ""


@dataclass(frozen=True)
class Conntrack:
    """Connection tracking of the kernel: entries now and at most."""

    entries: int
    limit: int


@dataclass(frozen=True)
class NetworkFacts:
    """`firewall`: objections found in the rules; None when they cannot be read."""

    udp: tuple[Binding, ...]
    http: Binding
    instance_pid: int | None
    host_addresses: tuple[str, ...]
    receive_buffer_bytes: int
    receive_buffer_wanted_bytes: int
    frame_buffer_bytes: int
    dgram_qlen: int | None = None
    conntrack: Conntrack | None = None
    firewall: tuple[str, ...] | None = ()
    mapping: Mapping | None = None
    key_file_mode: int | None = None  # None: there is none, or it cannot be read


@dataclass(frozen=True)
class KernelFacts:
    """What names an obstacle is empty when it was tried and works."""

    release: str
    capabilities: frozenset[str]
    steering_obstacle: str = ""
    pin_obstacle: str = ""
    loop_obstacle: str = ""
    voice_obstacle: str = ""


@dataclass(frozen=True)
class HostFacts:
    """`synchronised`: by NTP; None when nobody can tell. `cores`: that this user's processes may use."""

    clock_source: str
    clock_sources: tuple[str, ...]
    synchronised: bool | None
    clock_error_us: int
    cores: float
    files_soft: int
    files_hard: int
    memory_bytes: int
    shm_free_bytes: int
    governors: frozenset[str] = field(default_factory=frozenset)
    frequency_driver: str = ""
