"""The schema: one Struct a table of the config file. The only place where defaults stand, with schema_files.

A field with a description is a key. `short_form` names the field that a plain text fills where a table could stand:
`files = "public"` is `files = { root = "public" }`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from prefork.settings import kinds
from prefork.settings.address import Address
from prefork.settings.schema_files import FileCache, Files
from prefork.settings.table import Table

MOST_CONNECTIONS = 1 << 20  # Linux's default fs.nr_open: no process has more descriptors
EventLoop = Literal["auto", "select", "poll", "epoll", "kqueue"]
Level = Literal["debug", "info", "warning", "error"]
KINDS = ("files", "app", "wsgi", "asgi", "respond", "redirect", "status")  # what a route can be: exactly one of these


class Listener(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One listening socket."""

    short_form: ClassVar[str] = "address"
    address: Annotated[Address, kinds.ADDRESS, Meta(description='Where to listen: "HOST:PORT" or "unix:PATH".')]
    backlog: Annotated[int, kinds.integer(1, 65535), Meta(description="How many clients may wait to be accepted.")] = (
        2048
    )
    reuse_port: Annotated[
        bool,
        kinds.FLAG,
        Meta(
            description="Whether each worker has a socket of its own, and the kernel deals out clients: SO_REUSEPORT."
        ),
    ] = False
    mode: Annotated[
        int | None,
        kinds.MODE,
        Meta(description='Permissions of a unix socket\'s file, such as "660"; else "666", less master.umask.'),
    ] = None
    owner: Annotated[int | None, kinds.USER, Meta(description="The user whose a unix socket's file is.")] = None
    group: Annotated[int | None, kinds.GROUP, Meta(description="The group of a unix socket's file.")] = None


class Master(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The master process, and whom it makes its workers. It is read at the start alone, and no reload changes it.

    Relative paths are relative to the directory it was started in.
    """

    pid_file: Annotated[
        str, kinds.FILE, Meta(description='The file that holds the master\'s process id; "": none.')
    ] = "run/prefork.pid"
    control: Annotated[
        str, kinds.SOCKET, Meta(description='The unix socket through which the commands reach it; "": none.')
    ] = "run/prefork.sock"
    daemon: Annotated[bool, kinds.FLAG, Meta(description="Whether it runs in the background, as with --daemon.")] = (
        False
    )
    user: Annotated[
        int | None, kinds.USER, Meta(description="Who the workers become when the master is root; else who it is.")
    ] = None
    group: Annotated[int | None, kinds.GROUP, Meta(description="Their group; else that of their user.")] = None
    umask: Annotated[
        int | None, kinds.UMASK, Meta(description='Permissions that new files do not get, such as "027".')
    ] = None


class Workers(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The worker processes. Durations are in seconds."""

    count: Annotated[
        int | Literal["auto"], kinds.WORKERS, Meta(description='How many workers; "auto" is one per CPU core.')
    ] = "auto"
    threads: Annotated[
        int,
        kinds.integer(1, 1000),
        Meta(description="How many calls of WSGI applications run at once in a worker; 1 is strictly one by one."),
    ] = 8
    timeout: Annotated[
        float,
        kinds.TIMEOUT,
        Meta(description="Seconds of a WSGI call, or a blocked loop, after which the worker is replaced; 0: none."),
    ] = 30
    queue_timeout: Annotated[
        float, kinds.TIMEOUT, Meta(description="Seconds that a call may wait for a thread; 503 beyond; 0: any.")
    ] = 30
    affinity: Annotated[
        bool, kinds.FLAG, Meta(description="Whether each worker stays on one CPU core, one after the other.")
    ] = False
    event_loop: Annotated[
        EventLoop,
        kinds.choice("auto", "select", "poll", "epoll", "kqueue"),
        Meta(description='The system call to wait with; "auto" is the best that the platform has.'),
    ] = "auto"
    graceful_timeout: Annotated[
        float, kinds.SECONDS, Meta(description="Seconds that a leaving worker has to finish its requests.")
    ] = 30
    shutdown_timeout: Annotated[
        float,
        kinds.SECONDS,
        Meta(description="Seconds that ASGI applications have to shut down (lifespan.shutdown) once that is over."),
    ] = 10
    drain_delay: Annotated[
        float,
        kinds.DELAY,
        Meta(description="Seconds between the word to stop, which makes the status route answer 503, and the drain."),
    ] = 0
    boot_timeout: Annotated[
        float, kinds.SECONDS, Meta(description="Seconds that a new worker has to import the application.")
    ] = 30
    probation: Annotated[
        float,
        kinds.TIMEOUT,
        Meta(description="Seconds after a reload in which crashes of new workers bring the old ones back; 0: none."),
    ] = 1
    connections: Annotated[
        int,
        kinds.integer(1, MOST_CONNECTIONS),
        Meta(description="Connections per worker; beyond it clients wait, or get a 503 where all are there to stay."),
    ] = 4096
    max_requests: Annotated[
        int,
        kinds.integer(0, 1 << 40),
        Meta(description="Requests, give or take a tenth, after which a worker is replaced; 0: any number."),
    ] = 0
    max_memory: Annotated[
        int, kinds.size(0), Meta(description="Bytes in use by a worker above which it is replaced; 0: any number.")
    ] = 0
    preload: Annotated[
        bool,
        kinds.FLAG,
        Meta(description="Whether the application is imported once, by a process that the workers are copies of."),
    ] = False
    chdir: Annotated[
        str,
        kinds.DIRECTORY,
        Meta(description="The directory the application runs in; other paths are relative to the master's."),
    ] = "."
    pythonpath: Annotated[
        tuple[str, ...], kinds.DIRECTORIES, Meta(description="Where modules are looked for first, before chdir.")
    ] = ()
    env: Annotated[
        dict[str, str],
        kinds.Entries(kinds.VARIABLE, kinds.VARIABLE_TEXT),
        Meta(description="Environment variables, set before the application is imported."),
    ] = field(default_factory=dict)


class Http(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client may send and how long it may take. Durations are in seconds, sizes in bytes."""

    keepalive_timeout: Annotated[
        float, kinds.SECONDS, Meta(description="Seconds that a connection may idle between two requests.")
    ] = 130  # longer than proxies keep theirs, who else find them closed: nginx, AWS 60, Go and Traefik 90, Caddy 120
    header_timeout: Annotated[
        float, kinds.SECONDS, Meta(description="Seconds within which a request head must be complete.")
    ] = 10
    body_timeout: Annotated[float, kinds.SECONDS, Meta(description="Seconds between two reads of a request body.")] = 30
    send_timeout: Annotated[float, kinds.SECONDS, Meta(description="Seconds between two writes of a response.")] = 30
    max_head: Annotated[int, kinds.size(1), Meta(description="The largest request head; 431 beyond it.")] = 32 << 10
    max_fields: Annotated[
        int, kinds.integer(1, 65535), Meta(description="How many header fields a request may have; 431 beyond it.")
    ] = 100
    max_body: Annotated[
        int, kinds.size(0), Meta(description="The largest request body; 413 beyond it; 0 switches the check off.")
    ] = 16 << 20
    body_buffer: Annotated[
        int, kinds.size(0), Meta(description="Request bodies above this size are spooled to a temporary file.")
    ] = 64 << 10
    min_receive_rate: Annotated[
        int,
        kinds.size(0),
        Meta(description="Bytes a second, after 5 s, below which a request body is too slow; 0: none."),
    ] = 240
    min_send_rate: Annotated[
        int,
        kinds.size(0),
        Meta(description="Bytes a second, after 5 s, below which a client reads too slowly; 0: none."),
    ] = 240
    connections_per_client: Annotated[
        int, kinds.integer(0, 1 << 20), Meta(description="Connections of one address per worker; 503 beyond; 0: any.")
    ] = 0
    trusted_proxies: Annotated[
        tuple[str, ...],
        kinds.PROXIES,
        Meta(description='Whose word counts as to who their clients are: addresses, networks, "unix".'),
    ] = ("127.0.0.0/8", "::1", "unix")
    trusted_fields: Annotated[
        tuple[str, ...],
        kinds.TRUSTED_FIELDS,
        Meta(description="The fields that trusted proxies write; those of the kind that they pass on are dropped."),
    ] = kinds.X_FORWARDED
    server_header: Annotated[bool, kinds.FLAG, Meta(description="Whether responses carry a Server header.")] = True


class Websocket(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """WebSocket connections. Durations are in seconds, sizes in bytes."""

    max_message: Annotated[int, kinds.size(1), Meta(description="The largest message of a client; 1009 beyond it.")] = (
        1 << 20
    )
    message_timeout: Annotated[
        float, kinds.SECONDS, Meta(description="Seconds that a message may take to arrive; 1008 beyond it.")
    ] = 60
    max_buffered: Annotated[
        int,
        kinds.size(1),
        Meta(
            description="Bytes of messages that a worker holds for all clients, as they are not whole or not received: "
            "beyond, whoever has the most is closed by 1013."
        ),
    ] = 64 << 20
    ping_interval: Annotated[
        float, kinds.SECONDS, Meta(description="Seconds between two pings that look whether a client is still there.")
    ] = 20
    ping_timeout: Annotated[
        float, kinds.SECONDS, Meta(description="Seconds that a client has to answer a ping; 1011 beyond it.")
    ] = 20
    compression: Annotated[
        bool, kinds.FLAG, Meta(description="Whether messages are compressed where the client offers it.")
    ] = True


class Compression(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Responses coded on the fly, where the client accepts it. Sizes are in bytes."""

    enabled: Annotated[
        bool, kinds.FLAG, Meta(description="Whether the responses of routes that do not say so themselves are coded.")
    ] = False
    codings: Annotated[
        tuple[str, ...] | Literal["auto"],
        kinds.CODINGS,
        Meta(description='Which, the preferred one first; "auto" is zstd, br and gzip, as far as they are installed.'),
    ] = "auto"
    types: Annotated[
        tuple[str, ...], kinds.MEDIA_TYPES, Meta(description='The media types to code; "*" stands for anything.')
    ] = (
        "text/*",
        "*+json",
        "*+xml",
        "application/json",
        "application/javascript",
        "application/xml",
        "application/wasm",
        "font/ttf",
        "font/otf",
        "image/x-icon",
    )
    min_size: Annotated[int, kinds.size(0), Meta(description="The smallest response worth it.")] = 1 << 10
    level: Annotated[int, kinds.integer(1, 9), Meta(description="How hard to try: 1 is fast, 9 is small.")] = 4
    cache: Annotated[
        int, kinds.size(0), Meta(description="Coded files of up to 1 MiB that a worker keeps, in all; 0: none.")
    ] = 16 << 20


class Log(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is written where. Files are reopened on SIGUSR1."""

    error: Annotated[str, kinds.ERROR_LOG, Meta(description='The error log: "-" is stderr, or a file.')] = "-"
    level: Annotated[
        Level,
        kinds.choice("debug", "info", "warning", "error"),
        Meta(description="The least severe message that the error log shows."),
    ] = "info"
    access: Annotated[
        str, kinds.ACCESS_LOG, Meta(description='The access log: "-" is stderr, "" switches it off, or a file.')
    ] = "-"
    format: Annotated[
        str,
        kinds.LOG_FORMAT,
        Meta(description='A line of the access log: "common", "combined", "json" or a template with "$" variables.'),
    ] = "combined"


class Respond(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route with one fixed answer."""

    status: Annotated[int, kinds.integer(200, 599), Meta(description="The status code.")] = 200
    body: Annotated[str, kinds.TEXT, Meta(description="The body, sent as UTF-8.")] = ""
    type: Annotated[str, kinds.FIELD_TEXT, Meta(description="The Content-Type.")] = "text/plain; charset=utf-8"
    headers: Annotated[
        dict[str, str],
        kinds.Entries(kinds.FIELD_NAME, kinds.FIELD_TEXT),
        Meta(description="Further header fields, by name."),
    ] = field(default_factory=dict)


class Redirect(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route that sends its clients elsewhere."""

    short_form: ClassVar[str] = "to"
    to: Annotated[
        str,
        kinds.LOCATION,
        Meta(description="The Location: a path or a URL; $request_uri is what was asked for."),
    ]
    status: Annotated[int, kinds.REDIRECT_STATUS, Meta(description="The status code.")] = 308


class Route(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which requests go where; the longest matching path prefix wins. Exactly one of KINDS is set.

    `host` is lower-case, or "" for any; `path` is what the decoded path of a request is held against.
    """

    host: Annotated[str, kinds.HOST, Meta(description='The host, exact or as "*.example.com"; "" is every host.')] = ""
    path: Annotated[str, kinds.PATH, Meta(description="The path prefix, as decoded.")] = "/"
    files: Annotated[Files | None, Meta(description="Serve files: a directory, or a table.")] = None
    app: Annotated[
        str | None, kinds.TARGET, Meta(description='Call an application, whichever kind it is: "module:attribute".')
    ] = None
    wsgi: Annotated[str | None, kinds.TARGET, Meta(description='Call a WSGI application: "module:attribute".')] = None
    asgi: Annotated[str | None, kinds.TARGET, Meta(description='Call an ASGI application: "module:attribute".')] = None
    timeout: Annotated[
        float | None, kinds.TIMEOUT, Meta(description="As workers.timeout, for this route's WSGI application.")
    ] = None
    request_buffering: Annotated[
        bool,
        kinds.FLAG,
        Meta(description="Whether a WSGI application is called once the request body is here; false: it reads along."),
    ] = True
    inline: Annotated[
        bool,
        kinds.FLAG,
        Meta(description="Whether WSGI calls that do not wait are made in the thread of the loop; false: none is."),
    ] = True
    max_body: Annotated[
        int | None, kinds.size(0), Meta(description="As http.max_body, for this route's application.")
    ] = None
    lifespan: Annotated[
        Literal["auto", "off"],
        kinds.choice("auto", "off"),
        Meta(description='Whether the ASGI application is asked to start and shut down; "off" where it cannot be.'),
    ] = "auto"
    compression: Annotated[
        bool | None, kinds.FLAG, Meta(description="Whether its responses are coded; as compression.enabled by default.")
    ] = None
    respond: Annotated[Respond | None, Meta(description="Give a fixed answer.")] = None
    redirect: Annotated[Redirect | None, Meta(description="Redirect: a location, or a table.")] = None
    status: Annotated[bool, kinds.ONLY_TRUE, Meta(description="Show the status page.")] = False


class Settings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file. `source` is its name as errors and status show it, "" where there is none."""

    listen: Annotated[
        tuple[Listener, ...], Meta(description="The addresses to listen on: a text, or a list of texts and tables.")
    ] = (Listener(address=Address("tcp", "127.0.0.1", 8000)),)
    master: Annotated[Master, Meta(description="The master process.")] = Master()
    workers: Annotated[Workers, Meta(description="The worker processes.")] = Workers()
    http: Annotated[Http, Meta(description="HTTP limits and time-outs.")] = Http()
    websocket: Annotated[Websocket, Meta(description="WebSocket connections.")] = Websocket()
    compression: Annotated[Compression, Meta(description="Responses coded on the fly.")] = Compression()
    log: Annotated[Log, Meta(description="The logs.")] = Log()
    file_cache: Annotated[FileCache, Meta(description="What each worker keeps of the files it serves.")] = FileCache()
    error_pages: Annotated[
        dict[str, str],
        kinds.Entries(kinds.ERROR_STATUS, kinds.EXISTING_FILE),
        Meta(description="Files in place of the server's own short texts, by status."),
    ] = field(default_factory=dict)
    routes: Annotated[tuple[Route, ...], Meta(description="What answers which requests; at least one.")] = field(
        name="route", default=()
    )
    source: str = ""
