"""``python -m tests.faults --kills 200``: the whole suite, its table, and exit code 1 when anything was lost."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> int:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills at random moments, over all commands")
    parser.add_argument("--points", type=int, default=None, help="write points of each command; by default all")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the trials")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep what is done there: stopped, the same command goes on with it"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--only",
        metavar="KINDS",
        help="kills,signals,torn_states,write_points,limits,clocks,two_at_once,"
        "stuck_workers,endless_reward: only these",
    )
    parser.add_argument("--short", action="store_true", help="a few faults of each kind")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="instead: scans in a loop, and what they hold")
    options = parser.parse_args()

    from tests.faults import soak, suite, tasks
    from tests.faults.child import preload
    from tests.faults.scenarios import prepare
    from tests.faults.table import merged, table

    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{suite.elapsed(began)}] {text}", flush=True)

    # Not a TemporaryDirectory: the trials end as processes do, and would remove it.
    work = options.keep or Path(tempfile.mkdtemp(prefix="onelayer-faults-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        if options.soak is not None:
            # In a child: this process runs scans itself.
            if (child := os.fork()) == 0:
                prepare(work)
                os._exit(0)
            os.waitpid(child, 0)
            print(soak.verdict(soak.soak(work, options.soak, say)))
            return 0
        preload()
        only = options.only.split(",") if options.only else ()
        chosen = tasks.FEW if options.short else tasks.all_tasks(options.kills, options.points, only)
        rows = merged(tasks.run(chosen, work, options.seed, options.jobs, say))
    finally:
        if options.keep is None:
            shutil.rmtree(work)
    print(f"\n{table(rows)}\n\nin {suite.elapsed(began)}")
    return 1 if any(row.lost for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
