"""Weights carried between real models, both ways, and the closed loop: transfer, explain, patch, equal outputs.

    python -m benchmarks.transfer ports [NAME …]      the zoo, text, attention and U-Net models, in both directions
    python -m benchmarks.transfer arrays [NAME …]     every port of the alignment corpus, arrays against arrays
    python -m benchmarks.transfer vision [NAME …]     keras.applications to torchvision and timm, and back again
    python -m benchmarks.transfer loop [NAME …]       keras.applications to torchvision as both are published

``ports``, ``vision`` and ``loop`` start from weights that have nothing to do with each other. ``vision`` takes twins
with the same paddings and epsilons and small images, and fills a scrambled Keras model from the filled PyTorch one. The
difference of the outputs is relative to the largest output; the floor beside it is what the PyTorch model itself loses
by computing in float32.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus.vision_tuned import keras_application, torchvision_model

ROUNDS = 2


@dataclass(frozen=True)
class Row:
    """What became of one transfer.

    Attributes:
        carried, kept, missing, left_over: parameters.
        off: of the outputs, relative; ``floor`` what float32 costs.
        patched: of the outputs after the patches of the closed loop, ``rounds`` of them.
    """

    name: str
    carried: int = 0
    kept: int = 0
    missing: int = 0
    left_over: int = 0
    off: float = float("nan")
    floor: float = float("nan")
    patched: float = float("nan")
    rounds: int = 0
    causes: str = ""
    seconds: float = 0.0
    error: str = ""


# --- the models -------------------------------------------------------------------------------------------------------

SIZE = 224
LOOP: Mapping[str, tuple[str, Mapping[str, Any], str, Mapping[str, Any], int]] = {
    "vgg16": ("VGG16", {}, "vgg16", {}, SIZE),
    "resnet50": ("ResNet50", {}, "resnet50", {}, SIZE),
    "mobilenet_v2": ("MobileNetV2", {}, "mobilenet_v2", {}, SIZE),
    "mobilenet_v3_large": ("MobileNetV3Large", {"include_preprocessing": False}, "mobilenet_v3_large", {}, SIZE),
    "efficientnet_b0": ("EfficientNetB0", {}, "efficientnet_b0", {}, SIZE),
    "inception_v3": ("InceptionV3", {}, "inception_v3", {"aux_logits": False, "transform_input": False}, 299),
    "convnext_tiny": ("ConvNeXtTiny", {"include_preprocessing": False}, "convnext_tiny", {}, SIZE),
    "densenet121": ("DenseNet121", {}, "densenet121", {}, SIZE),
}


def published(name: str) -> tuple[Any, Any, np.ndarray]:
    """Keras's and torchvision's model as published, and two images."""
    from benchmarks.corpus.transfer import randomise

    application, options, twin, more, size = LOOP[name]
    keras_model = keras_application(application, size, **options)
    randomise(keras_model, 1)
    module = torchvision_model(twin, **more).eval()
    return keras_model, module, np.random.default_rng(0).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)


def small_images() -> tuple[Any, Any, np.ndarray]:
    from tests import parameter_models as models

    shape = (5, models.HEIGHT, models.WIDTH, 3)
    return models.keras_image(), models.torch_image(), np.random.default_rng(0).standard_normal(shape, np.float32)


def text(fused: bool) -> tuple[Any, Any, np.ndarray]:
    from tests import parameter_models as models

    ids = np.random.default_rng(0).integers(0, 30, (5, models.WORDS)).astype(np.int32)
    return models.keras_sequence(), models.torch_sequence(fused), ids


def recurrent(cell: str) -> tuple[Any, Any, np.ndarray]:
    """A text classifier: embedding, two bidirectional recurrent layers, the last step, a head."""
    import keras
    import torch
    from keras import layers as kl
    from torch import nn

    from tests.parameter_models import randomise

    make = {"lstm": kl.LSTM, "gru": kl.GRU}[cell]
    x = inputs = keras.Input((20,), dtype="int32")
    x = kl.Embedding(100, 16)(x)
    for _ in range(2):
        x = kl.Bidirectional(make(12, return_sequences=True))(x)
    x = kl.GlobalMaxPooling1D()(x)
    model = randomise(keras.Model(inputs, kl.Dense(4)(kl.Dense(10, activation="relu")(x))))

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(100, 16)
            self.encoder = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](16, 12, 2, batch_first=True, bidirectional=True)
            self.hidden, self.head = nn.Linear(24, 10), nn.Linear(10, 4)

        def forward(self, ids: Any) -> Any:
            return self.head(torch.relu(self.hidden(self.encoder(self.embed(ids))[0].amax(1))))

    return model, Classifier().eval(), np.random.default_rng(0).integers(0, 100, (3, 20)).astype(np.int32)


def transformer() -> tuple[Any, Any, np.ndarray]:
    """Three pre-norm encoder blocks in Keras layers against nn.TransformerEncoderLayer."""
    import keras
    from keras import layers as kl
    from torch import nn

    from tests.parameter_models import randomise

    x = inputs = keras.Input((14, 32))
    for _ in range(3):
        h = kl.LayerNormalization(epsilon=1e-5)(x)
        x = kl.Add()([x, kl.MultiHeadAttention(4, 8)(h, h)])
        h = kl.Dense(64, activation="relu")(kl.LayerNormalization(epsilon=1e-5)(x))
        x = kl.Add()([x, kl.Dense(32)(h)])
    model = randomise(keras.Model(inputs, kl.Dense(5)(kl.LayerNormalization(epsilon=1e-5)(x))))
    layer = nn.TransformerEncoderLayer(32, 4, 64, norm_first=True, batch_first=True)
    stack = nn.TransformerEncoder(layer, 3, nn.LayerNorm(32), enable_nested_tensor=False)
    return model, nn.Sequential(stack, nn.Linear(32, 5)).eval(), np.random.default_rng(0).standard_normal(
        (2, 14, 32), np.float32
    )  # fmt: skip


def unet() -> tuple[Any, Any, np.ndarray]:
    import keras
    import torch
    from keras import layers as kl
    from torch import nn

    from tests.parameter_models import randomise

    def twice(x: Any, width: int) -> Any:
        for _ in range(2):
            x = kl.ReLU()(kl.BatchNormalization(epsilon=1e-5)(kl.Conv2D(width, 3, padding="same")(x)))
        return x

    inputs = keras.Input((32, 48, 3))
    first = twice(inputs, 8)
    second = twice(kl.MaxPooling2D()(first), 16)
    x = twice(kl.MaxPooling2D()(second), 32)
    x = twice(kl.Concatenate()([kl.Conv2DTranspose(16, 2, strides=2)(x), second]), 16)
    x = twice(kl.Concatenate()([kl.Conv2DTranspose(8, 2, strides=2)(x), first]), 8)
    model = randomise(keras.Model(inputs, kl.Conv2D(2, 1)(x)))

    def double(before: int, after: int) -> nn.Module:
        parts = [(nn.Conv2d(n, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()) for n in (before, after)]
        return nn.Sequential(*(part for group in parts for part in group))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList([double(3, 8), double(8, 16), double(16, 32)])
            self.up = nn.ModuleList([nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)])
            self.merge = nn.ModuleList([double(32, 16), double(16, 8)])
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x: Any) -> Any:
            first = self.down[0](x)
            second = self.down[1](nn.functional.max_pool2d(first, 2))
            x = self.down[2](nn.functional.max_pool2d(second, 2))
            x = self.merge[0](torch.cat([self.up[0](x), second], 1))
            return self.head(self.merge[1](torch.cat([self.up[1](x), first], 1)))

    return model, UNet().eval(), np.random.default_rng(0).standard_normal((2, 32, 48, 3), np.float32)


def of_zoo(name: str) -> tuple[Any, Any, np.ndarray]:
    from tests.zoo import PAIRS

    pair = PAIRS[name]
    return pair.keras(), pair.torch(), pair.data(pair.input_shape)


def of_vision(name: str) -> tuple[Any, Any, np.ndarray]:
    """A pair of the corpus whose outputs are equal once its weights are."""
    from benchmarks.corpus import ports as corpus

    built = corpus()[name].build()
    return built.reference, built.candidate, np.asarray(built.inputs)


TIMM: Mapping[str, tuple[str, Mapping[str, Any], int, float | None]] = {
    "tf_mobilenetv3_large_100": ("MobileNetV3Large", {"include_preprocessing": False}, 96, None),
    "tf_mobilenetv3_small_100": ("MobileNetV3Small", {"include_preprocessing": False}, 96, None),
    "tf_efficientnet_b0": ("EfficientNetB0", {}, 96, None),
    "tf_efficientnetv2_b0": ("EfficientNetV2B0", {"include_preprocessing": False}, 96, None),
    "mobilenetv2_100": ("MobileNetV2", {}, 97, 1e-3),
    "convnext_tiny": ("ConvNeXtTiny", {"include_preprocessing": False}, 96, None),
    "densenet121": ("DenseNet121", {}, 97, 1.001e-5),
}
"""timm's network, Keras's and its options, pixels, and the epsilon of timm's normalisations where they differ."""


def of_timm(name: str) -> tuple[Any, Any, np.ndarray]:
    from torch.nn.modules.batchnorm import _BatchNorm

    from benchmarks.corpus.transfer import images, randomise
    from benchmarks.corpus.vision_held_out import timm_model
    from benchmarks.corpus.vision_tuned import normalising

    application, options, size, epsilon = TIMM[name]
    keras_model, module = keras_application(application, size, **options), timm_model(name)
    randomise(keras_model, 3)
    for part in module.modules():
        if isinstance(part, _BatchNorm) and epsilon is not None:
            part.eps = epsilon
    module = normalising(module) if application == "EfficientNetB0" else module
    return keras_model, module.eval(), images(keras_model, 2)


Build = Callable[[], tuple[Any, Any, np.ndarray]]


def vision() -> dict[str, Build]:
    from functools import partial

    from benchmarks.corpus import ports as corpus

    twins: dict[str, Build] = {name: partial(of_vision, name) for name in corpus() if name.startswith("vision/")}
    return {**twins, **{f"timm/{name}": partial(of_timm, name) for name in TIMM}}


def ports() -> dict[str, Build]:
    from functools import partial

    from tests.zoo import PAIRS

    own: dict[str, Build] = {
        "layers": small_images, "text": partial(text, False), "text-fused": partial(text, True),
        "lstm": partial(recurrent, "lstm"), "gru": partial(recurrent, "gru"), "transformer": transformer, "unet": unet,
    }  # fmt: skip
    published_ = {f"published/{name}": partial(published, name) for name in LOOP}
    return {**own, **{f"zoo/{name}": partial(of_zoo, name) for name in PAIRS}, **published_}


# --- what is done -----------------------------------------------------------------------------------------------------


def scramble(keras_model: Any, module: Any, back: bool) -> None:
    """Give the target weights that have nothing to do with the source's."""
    import torch

    torch.manual_seed(7)
    rng = np.random.default_rng(7)
    if back:
        for weight in keras_model.weights:
            values = rng.standard_normal(tuple(weight.shape)).astype(np.float32) * 0.1
            if str(weight.dtype).startswith("float"):
                weight.assign(np.abs(values) + 0.5 if "variance" in weight.name else values)
        return
    with torch.no_grad():
        for values in module.parameters():
            values.normal_(0, 0.1)
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5) if "var" in name else buffer.normal_(0, 0.1)


def first(found: Any) -> Any:
    return first(next(iter(found.values())) if isinstance(found, Mapping) else found[0]) if isinstance(
        found, Mapping | list | tuple
    ) else found  # fmt: skip


def moved(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1).copy() if x.ndim >= 3 and x.dtype.kind == "f" else x


def outputs(keras_model: Any, module: Any, x: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Of both models, the first of each, the PyTorch one's axes moved; and what float32 costs it."""
    import torch

    with torch.inference_mode():
        data = torch.from_numpy(np.array(given))
        theirs = first(module(data)).numpy()
        module.double()
        exact = first(module(data.double() if data.is_floating_point() else data)).numpy()
        module.float()
    ours = np.asarray(first(keras_model(x, training=False)))
    if ours.shape != theirs.shape:
        theirs, exact = (np.moveaxis(values, 1, -1) for values in (theirs, exact))
    return ours, theirs, float(np.abs(exact - theirs).max() / np.abs(exact).max())


def off(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(ours).max()) if ours.shape == theirs.shape else float("inf")


def transferred(name: str, build: Build, back: bool, loop: bool) -> Row:
    import torch

    import tracer
    from tracer.rerun.verifying import patched

    torch.set_num_threads(2)
    keras_model, module, x = build()
    scramble(keras_model, module, back)
    shown = f"{name} {'→ Keras' if back else '→ PyTorch'}"
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.zarr"
        tf = tracer.record(keras_model, x, name="tf", trace=trace)
        pt = tracer.record(module, None, name="pt", trace=trace)
        given = next(iter(_inputs(pt)))
        source, target, model = (pt, tf, keras_model) if back else (tf, pt, module)
        began = time.monotonic()
        found = tracer.transfer(source, target, model=model, anyway=True, partial=True)
        seconds = time.monotonic() - began
        carried = found.carried
        ours, theirs, floor = outputs(keras_model, module, x, given)
        row = Row(
            shown, len(carried.values), len(carried.kept), len(carried.missing), len(carried.left_over),
            off(ours, theirs), floor, seconds=seconds,
        )  # fmt: skip
        if not loop:
            return row
        last, rounds, said = row.off, 0, []
        while rounds < ROUNDS and not last <= 50 * floor:
            rounds += 1
            candidate = tracer.record(module, None, name=f"round{rounds}", trace=trace)
            explained = tracer.explain(tf, candidate)
            said += [f"{len(one.pairs) or 1} × {one.cause}" for one in explained.parting]
            try:
                code = patched(explained)
            except ValueError as error:
                said.append(f"no patch: {error}")
                break
            space: dict[str, Any] = {"__name__": "patch"}
            exec(compile(code, "patch", "exec"), space)
            space["apply"](module)
            ours, theirs, floor = outputs(keras_model, module, x, given)
            last = off(ours, theirs)
        return Row(**{**asdict(row), "floor": floor, "patched": last, "rounds": rounds, "causes": ", ".join(said)})


def there_and_back(name: str, build: Build) -> list[Row]:
    """Into the PyTorch model with weights of its own, and from that into the Keras model with others."""
    import torch

    import tracer

    torch.set_num_threads(2)
    keras_model, module, x = build()
    rows = []
    for back in (False, True):
        scramble(keras_model, module, back)
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.zarr"
            tf = tracer.record(keras_model, x, name="tf", trace=trace)
            pt = tracer.record(module, None, name="pt", trace=trace)
            source, target, model = (pt, tf, keras_model) if back else (tf, pt, module)
            began = time.monotonic()
            found = tracer.transfer(source, target, model=model, anyway=True, partial=True)
            seconds, carried = time.monotonic() - began, found.carried
            ours, theirs, floor = outputs(keras_model, module, x, next(iter(_inputs(pt))))
        rows.append(Row(
            f"{name} {'→ Keras' if back else '→ PyTorch'}", len(carried.values), len(carried.kept),
            len(carried.missing), len(carried.left_over), off(ours, theirs), floor, seconds=seconds,
        ))  # fmt: skip
        if not found.agrees or carried.missing or carried.left_over:
            rows[-1] = Row(**{**asdict(rows[-1]), "causes": _said(found)})
    return rows


def _said(found: Any) -> str:
    """What keeps a transfer from being whole."""
    lost = [f"{'.'.join(key)}: {why}" for part in (found.missing, found.left_over) for key, why in part.items()]
    return "; ".join(lost[:2] + [f"{len(one.pairs) or 1} × {one.cause}" for one in found.staying[:4]])


def _inputs(recording: Any) -> Iterable[np.ndarray]:
    """What a recording was fed, in its model's own axes."""
    from tracer.store import Trace

    saved = Trace.open(recording.root).inputs(recording.input_id)
    for (values, _), order in zip(saved.values(), recording.attributes["input_axes"].values(), strict=True):
        yield np.ascontiguousarray(np.asarray(values).transpose(order))


def arrays(name: str, back: bool) -> Row:
    """A port of the corpus: the arrays carried to the twin with unrelated weights against its own equal ones."""
    from benchmarks.corpus import ports as corpus
    from benchmarks.corpus.record import kept, record
    from tracer.alignment import align, relayout
    from tracer.weighing.carrying import carry
    from tracer.weighing.plan import Copy, plan

    port = corpus()[name]
    trace = (kept(port) or record(port)).trace
    reference, equal, unrelated = (trace.recording(one) for one in ("reference", "equal", "unrelated"))
    source, target, truth = (equal, reference, reference) if back else (reference, unrelated, equal)
    began = time.monotonic()
    made = plan(align(source, target), source, target)
    found = carry(made, source, target)
    seconds = time.monotonic() - began
    # Of a weight-normalised kernel only what its direction and its lengths make together is told.
    normed = {op.target: op.target_steps for op in made.operations
              if isinstance(op, Copy) and any(step[0] == "normed" for step in op.target_steps)}  # fmt: skip
    alone = [((key,), ()) for key in found.values if not any(key in keys for keys in normed)]
    worst = 0.0
    for keys, steps in (*alone, *normed.items()):
        wanted = relayout.read(steps, [truth.read_stored(truth.weights[key]).astype(np.float64) for key in keys])[0]
        values = relayout.read(steps, [found.values[key] for key in keys])[0]
        worst = max(worst, float(np.abs(wanted - values).max(initial=0) / max(np.abs(wanted).max(initial=0), 1e-30)))
    counts = len(found.values), len(found.kept), len(found.missing), len(found.left_over)
    return Row(f"{name} {'back' if back else 'forth'}", *counts, worst, seconds=seconds)


def _row(what: str, name: str, back: bool) -> list[Row]:
    try:
        if what == "vision":
            return there_and_back(name, vision()[name])
        if what == "arrays":
            return [arrays(name, back)]
        build = (lambda: published(name)) if what == "loop" else ports()[name]
        return [transferred(name, build, back, what == "loop")]
    except Exception as error:
        traceback.print_exc(limit=-4)
        return [Row(f"{name} {'back' if back else 'forth'}", error=f"{type(error).__name__}: {error}"[:200])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ports", "arrays", "vision", "loop"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.what == "arrays":
        from benchmarks.corpus import ports as corpus

        known = list(corpus())
    else:
        known = list({"loop": LOOP, "vision": vision()}.get(asked.what) or ports())
    rows = []
    print("carried kept missing left | outputs off  floor   patched | seconds | what")
    for name in asked.names or known:
        for back in (False,) if asked.what in ("loop", "vision") else (False, True):
            # A process each: models of a gigabyte, and frameworks that keep what they were given.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.apply(_row, (asked.what, name, back))
            rows += found
            for row in found:
                print(
                    f"{row.carried:7} {row.kept:4} {row.missing:7} {row.left_over:4} | {row.off:11.1e} {row.floor:.1e} "
                    f"{row.patched:.1e} | {row.seconds:7.1f} | {row.name} {row.causes}{row.error}", flush=True
                )  # fmt: skip
    whole = sum(not (row.missing or row.left_over or row.error) for row in rows)
    print(f"{whole} of {len(rows)} with nothing missing or left over")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
