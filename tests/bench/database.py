"""A Flask and a Django site on PostgreSQL: requests per second and latencies of one worker with threads, and its peers.

    python tests/bench/database.py [--site flask django] [--threads 8] [--rounds 3] [--seconds 3]

Each server runs the site on one core; on the other are the load and the database, which is made for this, in a
temporary directory. The pages: a row by its primary key, a query that sleeps 20 ms, and no query. The tables are those
of waits.py and mixes.py; the latencies are those of 70 % rows, 10 % sleeping and 20 % plain pages, at 80 % of the least
saturation. The peers' environment is that of compare.py; prefork runs in the bench's own, which has to have Flask,
Django and `psycopg[binary]`, too (the extra `test`).
"""

from __future__ import annotations

import argparse
import os
import sys

from generator import Kind
from measure import Bench, options
from postgresql import Failed, PostgreSQL, postgresql
from servers import threaded
from tables import Case, Mix, latencies, print_saturations

ROWS = 5000
CREATE = f"""
    create table article (id integer primary key, title text not null, body text not null);
    insert into article select i, 'Article ' || i, repeat('text ', 100) from generate_series(1, {ROWS}) i;
    analyze article
"""
PLAIN = ("/",)
ARTICLES = tuple(f"/article/{number}" for number in range(1, ROWS + 1, 7))
SLEEP = ("/sleep",)
CASES = (
    Case("a row by its key", (Kind("row", ARTICLES),), 0.001),
    Case("pg_sleep(0.02)", (Kind("sleep", SLEEP),), 0.02),
    Case("no query", (Kind("plain", PLAIN),), 0),
)
MIX = (Kind("plain", PLAIN, 0.2), Kind("row", ARTICLES, 0.7), Kind("sleep", SLEEP, 0.1))
SITES = {"flask": "apps_flask:app", "django": "apps_django:app"}


def measure(bench: Bench, given: argparse.Namespace, database: PostgreSQL) -> None:
    """Print the tables of each site."""
    database.execute(CREATE)
    os.environ.update(database.environment)  # the servers inherit it
    for site in given.site:
        servers = threaded(SITES[site], given.threads)
        print_saturations(bench, site, CASES, servers, given.seconds)
        print()
        print(latencies(bench, Mix(f"{site}, all pages", MIX), servers, given.seconds), flush=True)


def arguments() -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--site", nargs="+", choices=SITES, default=[*SITES], metavar="NAME")
    parser.add_argument("--seconds", type=float, default=3, help="of load, a server and round")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    bench = Bench(given)
    try:
        with postgresql() as database:  # on the core of this process
            measure(bench, given, database)
    except Failed as reason:
        sys.exit(f"database.py: {reason}")


if __name__ == "__main__":
    main()
