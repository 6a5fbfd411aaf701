"""The schema: one Struct for each table of the config file. Owns all defaults, together with schema_files.py.

A field with a description is a key. `short_form` names the field that a plain text fills in the place of a table:
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
KINDS = ("files", "app", "wsgi", "asgi", "respond", "redirect", "status")  # a route has exactly one of these


class Listener(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One listening socket."""

    short_form: ClassVar[str] = "address"
    address: Annotated[Address, kinds.ADDRESS, Meta(description='Where to listen: "HOST:PORT" or "unix:PATH".')]
    backlog: Annotated[
        int, kinds.integer(1, 65535), Meta(description="The number of clients that may wait to be accepted.")
    ] = 2048
    reuse_port: Annotated[
        bool,
        kinds.FLAG,
        Meta(description="Each worker has a socket of its own, and the kernel distributes clients (SO_REUSEPORT)."),
    ] = False
    mode: Annotated[
        int | None,
        kinds.MODE,
        Meta(description='Permissions of a unix socket\'s file, such as "660"; by default "666" less master.umask.'),
    ] = None
    owner: Annotated[int | None, kinds.USER, Meta(description="The owner of a unix socket's file.")] = None
    group: Annotated[int | None, kinds.GROUP, Meta(description="The group of a unix socket's file.")] = None


class Master(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The master process, and the user of its workers. A reload does not change this table.

    Relative paths are relative to the directory in which the master was started.
    """

    pid_file: Annotated[
        str, kinds.FILE, Meta(description='The file that holds the master\'s process id; "": none.')
    ] = "run/prefork.pid"
    control: Annotated[
        str, kinds.SOCKET, Meta(description='The unix socket on which the master takes commands; "": none.')
    ] = "run/prefork.sock"
    daemon: Annotated[bool, kinds.FLAG, Meta(description="Run the master in the background, as --daemon does.")] = False
    user: Annotated[
        int | None,
        kinds.USER,
        Meta(description="The user of the workers, if the master is root; by default the master's."),
    ] = None
    group: Annotated[
        int | None, kinds.GROUP, Meta(description="The group of the workers; by default that of their user.")
    ] = None
    umask: Annotated[
        int | None, kinds.UMASK, Meta(description='Permissions that new files do not get, such as "027".')
    ] = None


class Workers(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The worker processes. Durations are in seconds."""

    count: Annotated[
        int | Literal["auto"], kinds.WORKERS, Meta(description='The number of workers; "auto" is one per CPU core.')
    ] = "auto"
    threads: Annotated[
        int,
        kinds.integer(1, 1000),
        Meta(description="The number of WSGI calls that run at once in a worker; 1: one at a time."),
    ] = 8
    timeout: Annotated[
        float,
        kinds.TIMEOUT,
        Meta(
            description="Seconds of a WSGI call, or of a blocked loop, after which a worker is replaced; 0: no limit."
        ),
    ] = 30
    queue_timeout: Annotated[
        float,
        kinds.TIMEOUT,
        Meta(description="Seconds that a WSGI call may wait for a thread; 503 beyond it; 0: no limit."),
    ] = 30
    affinity: Annotated[
        bool, kinds.FLAG, Meta(description="Each worker stays on one CPU core; the workers take the cores in turn.")
    ] = False
    event_loop: Annotated[
        EventLoop,
        kinds.choice("auto", "select", "poll", "epoll", "kqueue"),
        Meta(description='The system call that waits for events; "auto" is the best that the platform has.'),
    ] = "auto"
    graceful_timeout: Annotated[
        float, kinds.SECONDS, Meta(description="Seconds within which a worker that leaves must finish its requests.")
    ] = 30
    shutdown_timeout: Annotated[
        float,
        kinds.SECONDS,
        Meta(description="Seconds for ASGI applications to shut down (lifespan.shutdown) after graceful_timeout."),
    ] = 10
    drain_delay: Annotated[
        float,
        kinds.DELAY,
        Meta(description="Seconds for which the workers serve after a stop, while the status route answers 503."),
    ] = 0
    boot_timeout: Annotated[
        float,
        kinds.SECONDS,
        Meta(description="Seconds within which a new worker must import the application and be ready."),
    ] = 30
    probation: Annotated[
        float,
        kinds.TIMEOUT,
        Meta(
            description="Seconds after a reload: if the new workers crash within them, the old ones return; 0: never."
        ),
    ] = 1
    connections: Annotated[
        int,
        kinds.integer(1, MOST_CONNECTIONS),
        Meta(description="Connections per worker; beyond it clients wait; 503 if all are taken for long (WebSockets)."),
    ] = 4096
    max_requests: Annotated[
        int,
        kinds.integer(0, 1 << 40),
        Meta(description="Requests, plus or minus a tenth, after which a worker is replaced; 0: no limit."),
    ] = 0
    max_memory: Annotated[
        int, kinds.size(0), Meta(description="Bytes of memory above which a worker is replaced; 0: no limit.")
    ] = 0
    preload: Annotated[
        bool,
        kinds.FLAG,
        Meta(description="Import the application once, and fork the workers from that process (Linux)."),
    ] = False
    chdir: Annotated[
        str,
        kinds.DIRECTORY,
        Meta(description="The directory of the application; other paths are relative to the master's."),
    ] = "."
    pythonpath: Annotated[
        tuple[str, ...],
        kinds.DIRECTORIES,
        Meta(description="Directories that are searched for modules first, before chdir."),
    ] = ()
    env: Annotated[
        dict[str, str],
        kinds.Entries(kinds.VARIABLE, kinds.VARIABLE_TEXT),
        Meta(description="Environment variables, set before the application is imported."),
    ] = field(default_factory=dict)


class Http(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on the requests of a client, and their time-outs. Durations are in seconds, sizes in bytes."""

    keepalive_timeout: Annotated[
        float, kinds.SECONDS, Meta(description="Seconds that a connection may idle between two requests.")
    ] = 130  # proxies must close first: nginx and AWS keep a connection 60 s, Go and Traefik 90 s, Caddy 120 s
    header_timeout: Annotated[
        float, kinds.SECONDS, Meta(description="Seconds within which a request head must be complete.")
    ] = 10
    body_timeout: Annotated[float, kinds.SECONDS, Meta(description="Seconds between two reads of a request body.")] = 30
    send_timeout: Annotated[float, kinds.SECONDS, Meta(description="Seconds between two writes of a response.")] = 30
    max_head: Annotated[int, kinds.size(1), Meta(description="The largest request head; 431 beyond it.")] = 32 << 10
    max_fields: Annotated[
        int,
        kinds.integer(1, 65535),
        Meta(description="The number of header fields that a request may have; 431 beyond it."),
    ] = 100
    max_body: Annotated[
        int, kinds.size(0), Meta(description="The largest request body; 413 beyond it; 0: no limit.")
    ] = 16 << 20
    body_buffer: Annotated[
        int, kinds.size(0), Meta(description="Request bodies above this size are spooled to a temporary file.")
    ] = 64 << 10
    min_receive_rate: Annotated[
        int,
        kinds.size(0),
        Meta(description="The least bytes per second of a request body, on average, from 5 s on; 0: no limit."),
    ] = 240
    min_send_rate: Annotated[
        int,
        kinds.size(0),
        Meta(description="The least bytes per second at which a client reads a response, from 5 s on; 0: no limit."),
    ] = 240
    connections_per_client: Annotated[
        int,
        kinds.integer(0, 1 << 20),
        Meta(description="Connections from one address, per worker; 503 beyond it; 0: no limit."),
    ] = 0
    trusted_proxies: Annotated[
        tuple[str, ...],
        kinds.PROXIES,
        Meta(description='Proxies that are believed about their clients: addresses, networks, "unix".'),
    ] = ("127.0.0.0/8", "::1", "unix")
    trusted_fields: Annotated[
        tuple[str, ...],
        kinds.TRUSTED_FIELDS,
        Meta(description="The fields that trusted proxies write; other fields that only proxies write are dropped."),
    ] = kinds.X_FORWARDED
    server_header: Annotated[bool, kinds.FLAG, Meta(description="Responses have a Server header.")] = True


class Websocket(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """WebSocket connections. Durations are in seconds, sizes in bytes."""

    max_message: Annotated[
        int, kinds.size(1), Meta(description="The largest message from a client; 1009 beyond it.")
    ] = 1 << 20
    message_timeout: Annotated[
        float, kinds.SECONDS, Meta(description="Seconds from the first byte of a message to its last; 1008 beyond it.")
    ] = 60
    max_buffered: Annotated[
        int,
        kinds.size(1),
        Meta(
            description="Bytes of messages, incomplete or not received yet, that a worker holds for all clients; "
            "beyond it, the WebSocket with the most is closed by 1013."
        ),
    ] = 64 << 20
    ping_interval: Annotated[
        float, kinds.SECONDS, Meta(description="Seconds between two pings, which tell whether a client is still there.")
    ] = 20
    ping_timeout: Annotated[
        float, kinds.SECONDS, Meta(description="Seconds within which a client must answer a ping; 1011 beyond it.")
    ] = 20
    compression: Annotated[bool, kinds.FLAG, Meta(description="Messages are compressed, if the client offers it.")] = (
        True
    )


class Compression(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Responses that are encoded on the fly, if the client accepts it. Sizes are in bytes."""

    enabled: Annotated[
        bool,
        kinds.FLAG,
        Meta(description="Encode the responses of every route that does not set `compression` itself."),
    ] = False
    codings: Annotated[
        tuple[str, ...] | Literal["auto"],
        kinds.CODINGS,
        Meta(description='The encodings, the preferred one first; "auto" is zstd, br and gzip, if installed.'),
    ] = "auto"
    types: Annotated[
        tuple[str, ...], kinds.MEDIA_TYPES, Meta(description='The media types to encode; "*" stands for any text.')
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
    min_size: Annotated[int, kinds.size(0), Meta(description="The size of the smallest response that is encoded.")] = (
        1 << 10
    )
    level: Annotated[
        int, kinds.integer(1, 9), Meta(description="The level of compression: 1 is the fastest, 9 the smallest.")
    ] = 4
    cache: Annotated[
        int,
        kinds.size(0),
        Meta(description="Bytes of encoded files, of up to 1 MiB each, that a worker keeps; 0: none."),
    ] = 16 << 20


class Log(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The logs: their targets, level and format. Files are reopened on SIGUSR1."""

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
        Meta(description="The Location: a path or a URL; $request_uri is the path and query of the request."),
    ]
    status: Annotated[int, kinds.REDIRECT_STATUS, Meta(description="The status code.")] = 308


class Route(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route: requests of a host below a path, and the handler for them. The longest matching path prefix wins.

    Exactly one of KINDS is set. `host` is lower-case, or "" for any; `path` is matched against the decoded path of a
    request.
    """

    host: Annotated[str, kinds.HOST, Meta(description='The host, exact or as "*.example.com"; "" is every host.')] = ""
    path: Annotated[str, kinds.PATH, Meta(description="The path prefix, decoded.")] = "/"
    files: Annotated[Files | None, Meta(description="Serve files: a directory, or a table.")] = None
    app: Annotated[
        str | None, kinds.TARGET, Meta(description='Call a WSGI or an ASGI application: "module:attribute".')
    ] = None
    wsgi: Annotated[str | None, kinds.TARGET, Meta(description='Call a WSGI application: "module:attribute".')] = None
    asgi: Annotated[str | None, kinds.TARGET, Meta(description='Call an ASGI application: "module:attribute".')] = None
    timeout: Annotated[
        float | None, kinds.TIMEOUT, Meta(description="The same as workers.timeout, for this route's WSGI application.")
    ] = None
    request_buffering: Annotated[
        bool,
        kinds.FLAG,
        Meta(description="true: a WSGI application is called after the request body has arrived; false: at once."),
    ] = True
    inline: Annotated[
        bool,
        kinds.FLAG,
        Meta(description="true: WSGI calls that do not wait run in the loop's thread; false: all run in threads."),
    ] = True
    max_body: Annotated[
        int | None, kinds.size(0), Meta(description="The same as http.max_body, for this route's application.")
    ] = None
    lifespan: Annotated[
        Literal["auto", "off"],
        kinds.choice("auto", "off"),
        Meta(description='"auto": the ASGI application is told of startup and shutdown; "off": it has no lifespan.'),
    ] = "auto"
    compression: Annotated[
        bool | None,
        kinds.FLAG,
        Meta(description="Encode the responses of this route; by default as compression.enabled says."),
    ] = None
    respond: Annotated[Respond | None, Meta(description="Give a fixed answer.")] = None
    redirect: Annotated[Redirect | None, Meta(description="Redirect: a location, or a table.")] = None
    status: Annotated[bool, kinds.ONLY_TRUE, Meta(description="Show the status page.")] = False


class Settings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file. `source` is its name as errors and status show it, "" if there is no file."""

    listen: Annotated[
        tuple[Listener, ...], Meta(description="The addresses to listen on: a text, or a list of texts and tables.")
    ] = (Listener(address=Address("tcp", "127.0.0.1", 8000)),)
    master: Annotated[Master, Meta(description="The master process.")] = Master()
    workers: Annotated[Workers, Meta(description="The worker processes.")] = Workers()
    http: Annotated[Http, Meta(description="HTTP limits and time-outs.")] = Http()
    websocket: Annotated[Websocket, Meta(description="WebSocket connections.")] = Websocket()
    compression: Annotated[Compression, Meta(description="Responses that are encoded on the fly.")] = Compression()
    log: Annotated[Log, Meta(description="The logs.")] = Log()
    file_cache: Annotated[FileCache, Meta(description="The files that each worker keeps in memory or open.")] = (
        FileCache()
    )
    error_pages: Annotated[
        dict[str, str],
        kinds.Entries(kinds.ERROR_STATUS, kinds.EXISTING_FILE),
        Meta(description="Files that replace the server's own error pages, by status."),
    ] = field(default_factory=dict)
    routes: Annotated[tuple[Route, ...], Meta(description="The routes, which answer requests; at least one.")] = field(
        name="route", default=()
    )
    source: str = ""
