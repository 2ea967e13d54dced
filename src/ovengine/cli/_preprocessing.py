"""Changes to a model's inputs and outputs, made by OpenVINO's PrePostProcessor: types, layouts, means and scales."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ovengine.errors import ConfigError

if TYPE_CHECKING:
    import openvino as ov

PICTURES = ("NCHW", "NHWC", "CHW", "HWC")
# benchmark_app's guess: what has no more is channels.
_MOST_CHANNELS = 4

Names = Sequence[set[str]]


def changes_values(args: argparse.Namespace) -> bool:
    """Whether any option asks for other inputs or outputs; a layout only says what they are."""
    return any([args.input_precision, args.output_precision, args.input_output_precision, *_means(args)])


def _means(args: argparse.Namespace) -> tuple[Mapping[str, tuple[float, ...]], Mapping[str, tuple[float, ...]]]:
    return args.mean_values, args.scale_values


def changed(model: ov.Model, args: argparse.Namespace) -> ov.Model:
    """The model with what `add_preprocessing_options` ask for. Raises ConfigError for what it does not have or take."""
    from openvino import Layout, Type
    from openvino.preprocess import PrePostProcessor

    for port in model.inputs:
        if not port.get_names():
            port.set_names({port.node.get_friendly_name()})
    inputs, outputs = _names(model.inputs), _names(model.outputs)
    layouts = dict(_given_layouts(args.layout, inputs))
    change = PrePostProcessor(model)
    for index in range(len(inputs)):
        if args.input_precision:
            change.input(index).tensor().set_element_type(_type(args.input_precision))
    for index in range(len(outputs)):
        if args.output_precision:
            change.output(index).tensor().set_element_type(_type(args.output_precision))
    for name, kind in args.input_output_precision.items():
        if (place := _find(name, inputs)) is not None:
            change.input(place).tensor().set_element_type(_type(kind))
        elif (place := _find(name, outputs)) is not None:
            change.output(place).tensor().set_element_type(_type(kind))
        else:
            raise ConfigError(f"-iop: {_absent(name, 'input or output', [*inputs, *outputs])}")
    means, scales = _means(args)
    if means or scales:
        layouts = {**{index: _layout(port) for index, port in enumerate(model.inputs)}, **layouts}
    for option, given in (("mean", means), ("scale", scales)):
        for index, values in _by_input(option, given, inputs, model.inputs, layouts):
            step = change.input(index).preprocess().convert_element_type(Type.f32)
            getattr(step, option)(list(values) if len(values) > 1 else values[0])
    try:
        for index, layout in layouts.items():
            if layout:
                change.input(index).model().set_layout(Layout(layout))
        return change.build()
    except RuntimeError as error:
        raise ConfigError(f"the model cannot be changed so: {reason(error)}") from None


def reason(error: RuntimeError) -> str:
    """OpenVINO's message without the source lines that it begins with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join([line for line in lines if not line.startswith(("Exception from ", "Check '"))] or lines)


def _type(name: str) -> ov.Type:
    from openvino import Type

    return getattr(Type, "boolean" if name == "bool" else name)


def _names(ports: Sequence[ov.Output]) -> Names:
    return [{*port.get_names(), port.node.get_friendly_name()} for port in ports]


def _find(name: str, ports: Names) -> int | None:
    return next((index for index, names in enumerate(ports) if name in names), None)


def _absent(name: str, what: str, ports: Names) -> str:
    return f"the model has no {what} {name!r}, but {', '.join(min(names, key=len) for names in ports)}"


def _given_layouts(given: Mapping[str, str], inputs: Names) -> Iterator[tuple[int, str]]:
    """By index; without a name it is that of all inputs."""
    for name, layout in given.items():
        index = _find(name, inputs)
        if name and index is None:
            raise ConfigError(f"-layout: {_absent(name, 'input', inputs)}")
        yield from ((place, layout) for place in (range(len(inputs)) if index is None else [index]))


def _layout(port: ov.Output) -> str:
    """The model's own, or that of a picture where the shape looks like one; '' where nothing is known."""
    own = "" if port.node.layout.empty else str(port.node.layout).strip("[]").replace(",", "")
    shape = port.partial_shape
    if own or shape.rank.is_dynamic or len(shape) not in (3, 4):
        return own
    lengths = [dimension.get_max_length() for dimension in shape]
    few = [0 < length <= _MOST_CHANNELS for length in lengths]
    prefix = "N" * (len(lengths) - 3)
    if few[-3] == few[-1]:
        return ""
    return prefix + ("CHW" if few[-3] else "HWC")


def _by_input(
    option: str,
    given: Mapping[str, tuple[float, ...]],
    inputs: Names,
    ports: Sequence[ov.Output],
    layouts: Mapping[int, str],
) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Values by index; without a name they are those of all inputs that take pictures."""
    for name, values in given.items():
        index = _find(name, inputs)
        if name and index is None:
            raise ConfigError(f"--{option}_values: {_absent(name, 'input', inputs)}")
        pictures = [place for place, layout in layouts.items() if layout in PICTURES]
        places = pictures if index is None else [index]
        if not places:
            raise ConfigError(
                f"--{option}_values: no input is known to take pictures; name one ('a[127.5]'), or give -layout"
            )
        for place in places:
            layout, shape = layouts[place], ports[place].partial_shape
            channels = shape[layout.index("C")].get_max_length() if "C" in layout else None
            if len(values) > 1 and channels not in (len(values), -1):
                known = "unknown channels" if channels is None else f"{channels} channels"
                raise ConfigError(
                    f"--{option}_values: {len(values)} values for an input of {known}; -layout says which these are"
                )
            yield place, values
