"""A copy of this source tree in a temporary folder, to be built with one patch at a time: tests/soak/broken and bench/ablation."""
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Trouble(Exception):
    """Why there is no build, without a trace."""


def run(command, cwd):
    done = subprocess.run([str(c) for c in command], cwd=cwd, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode:
        raise Trouble(f"{' '.join(map(str, command))}:\n{done.stdout[-2000:]}")


class Tree:
    """The copy of the sources, with the working tree as it is, and its build."""

    def __init__(self, directory):
        self.dir, self.build = directory, directory / "build"
        self.reverse = None
        files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                               capture_output=True, text=True).stdout
        for name in filter(None, files.split("\0")):
            if (ROOT / name).is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, directory / name)
        os.environ.setdefault("CCACHE_BASEDIR", str(directory))  # so that ccache, if used, knows files of former copies
        os.environ.setdefault("CCACHE_NOHASHDIR", "1")
        run(["cmake", "-B", self.build, "-DCMAKE_BUILD_TYPE=Release"], directory)

    def make(self, patch, jobs, *targets):
        """Builds with this patch alone; None: without any."""
        if self.reverse:
            run(["git", "apply", "-R", self.reverse], self.dir)
            self.reverse = None
        if patch:
            try:
                run(["git", "apply", "--check", patch], self.dir)
            except Trouble as e:
                raise Trouble(f"{patch.name} no longer applies: the code has changed, write it anew\n{e}") from None
            run(["git", "apply", patch], self.dir)
            self.reverse = patch
        run(["cmake", "--build", self.build, f"-j{jobs}", "--target", *targets], self.dir)
