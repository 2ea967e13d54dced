"""The own C++ loop of bench/native_loop as a contender: built here, and driven as a child process."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import openvino as ov

from bench import OUT, ROOT
from bench.contenders import Contender
from bench.work import PRECISION, Work


def build() -> Path:
    """Build the program against the installed OpenVINO; the path of it."""
    tree = OUT / "native_loop"
    openvino = Path(ov.__file__).parent / "cmake"
    configure = ["cmake", "-S", str(ROOT / "bench" / "native_loop"), "-B", str(tree), "-DCMAKE_BUILD_TYPE=Release"]
    for command in ([*configure, f"-DOpenVINO_DIR={openvino}"], ["cmake", "--build", str(tree)]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return tree / "native_loop"


class OwnLoop(Contender):
    """As many threads as CPUs, each with raw `infer()` at the batch size that was measured to be best."""

    def __init__(self, work: Work, *, sweep_seconds: float) -> None:
        self._files = tempfile.TemporaryDirectory()
        files = Path(self._files.name)
        ov.save_model(work.model, files / "model.xml", compress_to_fp16=False)
        work.rows.tofile(files / "rows.bin")
        self._dump = files / "answers.bin"
        threads = len(os.sched_getaffinity(0))
        arguments = [str(files / "model.xml"), str(files / "rows.bin"), str(len(work.rows)), PRECISION, str(threads)]
        self._process = subprocess.Popen(
            [str(build()), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.rows_per_s: dict[int, float] = {}
        """By batch size, as measured before the first run."""
        reply = self._ask(f"sweep {sweep_seconds}")
        while not reply.startswith("best"):
            batch, rate = reply.split()
            self.rows_per_s[int(batch)] = float(rate)
            reply = self._reply()
        super().__init__(work, "own C++ loop", f"{threads} threads, {reply.replace('best', 'batch').strip()}")

    def run(self, passes: int) -> None:
        self._ask(f"run {passes}")

    def check(self) -> None:
        self._ask(f"dump {self._dump}")
        self.work.check(np.fromfile(self._dump, np.float32).reshape(len(self.work.rows), -1))

    def close(self) -> None:
        super().close()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)
        self._files.cleanup()

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> str:
        assert self._process.stdout is not None
        reply = self._process.stdout.readline()
        if not reply:
            raise RuntimeError(f"the own C++ loop ended with status {self._process.wait(10)}; its message is above")
        return reply
