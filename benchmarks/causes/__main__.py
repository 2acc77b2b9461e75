"""The command line, see the package."""

from __future__ import annotations

import argparse

import numpy as np

import benchmarks.causes
from benchmarks.causes.fuzzing.running import run_fuzz
from benchmarks.causes.planted import run_defects
from benchmarks.causes.ports import run_ports
from tracer.causes.explain import SECONDS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=benchmarks.causes.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("defects", "ports", "fuzz"))
    parser.add_argument("names", nargs="*", metavar="PAIR", help="globs over the corpus' names")
    parser.add_argument("--kinds", nargs="+", default=["*"], metavar="KIND", help="globs over the kinds of defects")
    parser.add_argument("--stacks", nargs="+", type=int, default=[], metavar="N", help="so many defects at once")
    parser.add_argument("--draws", type=int, default=4, help="models of each port with several defects")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--new", action="store_true", help="the defects that the engine was not made with")
    parser.add_argument("--second", action="store_true", help="the second set of these, by another hand")
    sets = {"third": "the third set, in small networks of its own", "fourth": "the fourth, in others",
            "fifth": "the fifth, in others again", "sixth": "the sixth, in others yet",
            "seventh": "the seventh, in others than these", "eighth": "the eighth, in others still",
            "ninth": "the ninth, in others than all of these", "tenth": "the tenth, in yet others",
            "eleventh": "the eleventh, in others than those", "twelfth": "the twelfth, once more",
            "thirteenth": "the thirteenth, in further ones",
            "fourteenth": "the fourteenth, in still further ones",
            "fifteenth": "the fifteenth, in ones further still",
            "sixteenth": "the sixteenth, in ones unlike these",
            "seventeenth": "the seventeenth, in ones unlike any of them"}  # fmt: skip
    for which, told in sets.items():
        parser.add_argument(f"--{which}", dest="networks", action="store_const", const=which, help=told)
    parser.add_argument("--cases", type=int, default=300, metavar="K", help="defects to draw")
    parser.add_argument("--pairs", action="store_true", help="draw two at once")
    parser.add_argument("--record", action="store_true", help="make the recordings that are missing")
    parser.add_argument("--held-out", action="store_true", help="the ports kept aside as well: for reports only")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for one pair")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--verbose", action="store_true", help="tell all that was said")
    options = parser.parse_intermixed_args()
    with np.errstate(all="ignore"):
        {"defects": run_defects, "ports": run_ports, "fuzz": run_fuzz}[options.what](options)


if __name__ == "__main__":
    main()
