"""Measure the latency of exports, or of any ONNX files, on one device or several."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from nas.commands.arguments import add_shape, device_settings, networks_of
from nas.commands.printing import print_json
from nas.exit_codes import OK


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument("paths", nargs="+", metavar="PATH", help="folder of an export, or an ONNX file")
    command.add_argument(
        "--device",
        metavar="NAME[,SETTING=VALUE]",
        action="append",
        help="where, such as openvino-cpu,precision=bfloat16; may be repeated (default: onnxruntime-cpu)",
    )
    command.add_argument("--threads", type=int, metavar="N", help="of every device (default: 1)")
    command.add_argument("--batch", type=int, metavar="N", help="inputs per run (default: 1)")
    add_shape(command)
    command.add_argument("--kernels", action="store_true", help="show what ran, by the runtime's profile")


def carry_out(args: Namespace) -> int:
    from nas.hardware import DEFAULT
    from nas.measure import measure, read_devices
    from nas.measure_view import measured_as_json, print_measured
    from nas.progress import track

    there = read_devices(args.device or [DEFAULT], device_settings(args))
    networks, found = networks_of(args), []
    with track("measuring", len(networks) * len(there), brief=True) as shown:
        for one in measure(networks, there, args.kernels):
            found.append(one)
            shown.to(len(found), f"{one.network.path} on {one.latency.device}")
    found.sort(key=lambda one: networks.index(one.network))
    print_json(measured_as_json(found)) if args.json else print_measured(found, args.kernels)
    return OK
