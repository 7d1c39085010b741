"""Rules about the libraries: what each really does here, and the line that mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from acd_edge.doctor.checks import Check
from acd_edge.doctor.facts import Facts
from acd_edge.doctor.machine_checks import hidden_packages_fix, other_file_fix
from acd_edge.doctor.reports import Report

__all__ = ["cuda_checks", "onnxruntime_checks", "opencv_checks", "openvino_checks", "tensorrt_checks"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
OLDEST_ONNXRUNTIME = (1, 18)  # the first with opset 20 in full
OLDEST_TENSORRT = (10,)
SYSTEM_OPENCV = "sudo apt-get install nvidia-opencv || sudo apt-get install python3-opencv"
PC_DRIVER = "sudo ubuntu-drivers install  # and restart"
_HEADLESS = "opencv-python-headless"
_PRECISIONS = ("FP32", "FP16", "BF16", "INT8")


def opencv_checks(facts: Facts) -> Iterator[Check]:
    """OpenCV: whether it works, whose it is, and what it can open."""
    report, jetson = facts.report("opencv"), facts.jetson is not None
    wheels = [name for name in facts.machine.python.distributions if name.startswith("opencv")]
    if len(wheels) > 1:
        text = f"{' and '.join(wheels)} are installed and write over each other"
        keep = "" if jetson else f" && pip install {_HEADLESS}"
        yield Check("pictures", "OpenCV", "bad", text, f"pip uninstall -y {' '.join(wheels)}{keep}", "two-opencvs")
    if not report.works:
        yield _no_opencv(facts, report)
        return
    values = report.values
    has = {name: bool(values.get(key)) for key, name in (("gstreamer", "GStreamer"), ("ffmpeg", "FFmpeg"))}
    parts = [f"{report.version}, {_whose(report)}", *(name for name, there in has.items() if there)]
    parts += [f"no {name}" for name, there in has.items() if not there]
    text = ", ".join(parts)
    if jetson and not has["GStreamer"] and "cv2" in facts.machine.python.for_system and wheels:
        text += "; it hides JetPack's, which has GStreamer"
        fix = f"pip uninstall -y {' '.join(wheels)}" + (" && pip install 'numpy<2'" if _numpy_too_new(facts) else "")
        yield Check("pictures", "OpenCV", "bad", text, fix, "pip-opencv")
    elif jetson and not has["GStreamer"]:
        text += ": no camera on CSI"
        yield Check("pictures", "OpenCV", "note", text, SYSTEM_OPENCV, "no-gstreamer")
    elif not any(has.values()):
        yield Check("pictures", "OpenCV", "note", f"{text}: no videos, no streams", _opencv_fix(facts), "no-streams")
    else:
        yield Check("pictures", "OpenCV", "ok", text)


def _numpy_too_new(facts: Facts) -> bool:
    """JetPack 6's OpenCV was built for numpy 1."""
    line = facts.jetson.jetpack if facts.jetson else None
    numpy = facts.machine.python.distributions.get("numpy", "")
    return line is not None and line.python == "3.10" and numbers_of(numpy)[:1] >= (2,)


def _no_opencv(facts: Facts, report: Report) -> Check:
    if report.state == "absent":
        return Check("pictures", "OpenCV", "missing", "not installed", _opencv_fix(facts), "no-opencv")
    numpy = facts.machine.python.distributions.get("numpy", "")
    text = f"installed, and does not work: {report.error}"
    if report.other_file:
        return Check("pictures", "OpenCV", "bad", text, other_file_fix(report), "opencv-broken")
    numpy_runs = facts.report("numpy").state in ("ok", "absent")  # absent is here: it was not tried
    if numpy_runs and numpy and numbers_of(numpy) >= (2,) and re.search("numpy|_ARRAY_API|multiarray", report.error):
        text += f" (built for numpy 1, here is {numpy})"
        return Check("pictures", "OpenCV", "bad", text, "pip install 'numpy<2'", "numpy-2")
    if "libGL" in report.error:
        fix = f"pip uninstall -y opencv-python opencv-contrib-python && pip install {_HEADLESS}"
        return Check("pictures", "OpenCV", "bad", text, fix, "opencv-broken")
    return Check("pictures", "OpenCV", "bad", text, _opencv_fix(facts, again=True), "opencv-broken")


def _opencv_fix(facts: Facts, *, again: bool = False) -> str:
    if facts.jetson is None:
        return f"pip install --force-reinstall {_HEADLESS}" if again else "pip install 'acd-edge[cpu]'"
    if "cv2" in facts.machine.python.for_system and not facts.machine.python.sees_system:
        return hidden_packages_fix(facts)
    return "sudo apt-get install --reinstall nvidia-opencv" if again else SYSTEM_OPENCV


def onnxruntime_checks(facts: Facts) -> Iterator[Check]:
    """ONNX Runtime: its release, and on what it really runs."""
    report = facts.report("onnxruntime")
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if name in facts.machine.python.distributions]
    if len(both) > 1:
        keep = both[1] if facts.nvidia_driver and not facts.jetson else both[0]
        text = "onnxruntime and onnxruntime-gpu are installed: one module, whichever came last"
        fix = f"pip uninstall -y {' '.join(both)} && pip install {keep}"
        yield Check("backends", "ONNX Runtime", "bad", text, fix, "two-onnxruntimes")
    if report.state == "absent":
        text = "not installed" + ("; TensorRT is the way to this GPU" if facts.jetson else "")
        yield Check("backends", "ONNX Runtime", "note", text, "" if facts.jetson else "pip install 'acd-edge[cpu]'")
        return
    if report.state != "ok" and CPU not in _usable(report):
        text = f"{report.version or 'installed'}, and does not work: {report.error}"
        name = both[0] if both else "onnxruntime"
        fix = other_file_fix(report) or f"pip install --force-reinstall {name}"
        yield Check("backends", "ONNX Runtime", "bad", text, fix, "onnxruntime-broken")
        return
    on = ", ".join(_short(name) for name in _usable(report)) or "nothing"
    text = f"{report.version}, runs on {on}"
    if numbers_of(report.version) < OLDEST_ONNXRUNTIME:
        fix = "pip install 'onnxruntime>=1.18'"
        yield Check("backends", "ONNX Runtime", "bad", f"{text}; too old for opset 20", fix, "old-onnxruntime")
    else:
        yield Check("backends", "ONNX Runtime", "ok", text)
    yield from _provider_checks(facts, report)


def _provider_checks(facts: Facts, report: Report) -> Iterator[Check]:
    for name, told in report.values.get("providers", {}).items():
        if told["usable"]:
            continue
        text = f"listed, and does not run: {told['why']}"
        fix = ""
        if name == CUDA and facts.jetson:
            text, fix = f"{text}; TensorRT is the way to this GPU", "acd-edge compile BUNDLE"
        elif name == CUDA and facts.nvidia_driver:
            fix = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        elif name == CUDA:
            text = f"{text}; there is no NVIDIA driver"
            fix = "pip uninstall -y onnxruntime-gpu && pip install onnxruntime"
        mark = "bad" if name == CPU or (name == CUDA and facts.nvidia_driver and not facts.jetson) else "note"
        yield Check("backends", f"… on {_short(name)}", mark, text, fix, "provider-not-usable")  # type: ignore[arg-type]


def tensorrt_checks(facts: Facts) -> Iterator[Check]:
    """TensorRT: whether it is there, really makes a Builder, and what its release is said to do."""
    report, jetson = facts.report("tensorrt"), facts.jetson
    if report.state == "absent":
        yield from _no_tensorrt(facts)
        return
    if not report.works:
        text = f"{report.version or 'installed'}, and does not work: {report.error}"
        again = "sudo apt-get install --reinstall python3-libnvinfer libnvinfer10"
        fix = again if jetson else "pip install --force-reinstall 'acd-edge[tensorrt]'"
        fix = other_file_fix(report) or fix
        yield Check("backends", "TensorRT", "bad", text, fix, "tensorrt-broken")
        return
    if numbers_of(report.version) < OLDEST_TENSORRT:
        text = f"{report.version}, which has no strongly typed graphs"
        fix = "install JetPack 6.2.2 or 7.2" if jetson else "pip install --upgrade 'acd-edge[tensorrt]'"
        yield Check("backends", "TensorRT", "bad", text, fix, "old-tensorrt")
        return
    if not report.values.get("builder"):
        why = report.values.get("why") or "no reason told"
        why = "no driver, or not the one it wants" if report.values.get("null") and "nullptr" in why else why
        text = f"{report.version}, and makes no Builder: {why}"
        yield Check("backends", "TensorRT", "bad", text, _driver_fix(facts), "no-builder")
        return
    yield Check("backends", "TensorRT", "ok", f"{report.version}, {_whose(report)}, makes a Builder")
    yield from _known_bad(facts, report)


def _no_tensorrt(facts: Facts) -> Iterator[Check]:
    python = facts.machine.python
    if facts.jetson is None:
        if facts.nvidia_driver:
            fix = "pip install 'acd-edge[tensorrt]'"
            yield Check("backends", "TensorRT", "note", "not installed; there is an NVIDIA driver", fix, "no-tensorrt")
        else:
            yield Check("backends", "TensorRT", "note", "not installed; it needs an NVIDIA GPU")
    elif "tensorrt" in python.for_system:
        text = "JetPack's is there, and this Python does not see it"
        yield Check("backends", "TensorRT", "bad", text, hidden_packages_fix(facts), "hidden-tensorrt")
    else:
        fix = "sudo apt-get install python3-libnvinfer"
        yield Check("backends", "TensorRT", "missing", "not installed", fix, "no-tensorrt")


def _known_bad(facts: Facts, report: Report) -> Iterator[Check]:
    capability = str(facts.report("cuda").values.get("compute_capability", "")).replace(".", "")
    for told in report.values.get("known_bad", ()):
        only = re.search(r"sm_(\d+)", told["pattern"])
        if only and capability and only[1] != capability:
            continue
        if told["severity"] == "refuse":
            fix = "install another release; compile refuses this one"
            yield Check("backends", "… known", "bad", told["text"], fix, "known-bad")
        elif any(each["state"] == "verified" and each["tensorrt"] == report.version for each in facts.engines):
            yield Check("backends", "… known", "ok", f"{told['text']}; an engine of it was verified here")
        else:
            fix = "acd-edge verify BUNDLE --backend tensorrt"
            yield Check("backends", "… known", "note", told["text"], fix, "known-bad")


def _driver_fix(facts: Facts) -> str:
    """What brings CUDA's driver within reach."""
    if facts.jetson is None:
        return PC_DRIVER
    if not {"root", "video", "render"} & facts.machine.groups:
        return "sudo usermod -aG video,render $USER  # and log in again"
    return "sudo apt-get install --reinstall nvidia-l4t-cuda  # in a container: --runtime nvidia"


def cuda_checks(facts: Facts) -> Iterator[Check]:
    """CUDA's binding, driver and GPU, opened as the TensorRT backend opens them."""
    report = facts.report("cuda")
    there = facts.report("tensorrt").state != "absent"
    if report.works:
        values = report.values
        memory = f"{values['free_bytes'] / 2**30:.1f} of {values['total_bytes'] / 2**30:.1f} GiB free"
        shared = ", shared with the CPU" if values["integrated"] else ""
        text = f"{values['name']}, sm_{values['compute_capability'].replace('.', '')}, {memory}{shared}"
        yield Check("backends", "GPU", "ok", text)
        driver = f"driver {values['driver']}, {values['binding']}"
        toolkit = f", CUDA {facts.machine.cuda_toolkit} installed" if facts.machine.cuda_toolkit else ""
        yield Check("backends", "CUDA", "ok", driver + toolkit)
    elif report.state == "absent" and (there or facts.jetson):
        extra = "jetson" if facts.jetson else "tensorrt"
        text = "no Python binding (cuda-python or pycuda)"
        yield Check("backends", "CUDA", "missing", text, f"pip install 'acd-edge[{extra}]'", "no-cuda-binding")
    elif report.state != "absent" and (there or facts.jetson or facts.nvidia_driver):
        fix = _binding_fix(facts) or _driver_fix(facts)
        yield Check("backends", "CUDA", "bad", report.error, fix, "cuda-broken")
    elif report.state != "absent":
        yield Check("backends", "CUDA", "note", "a Python binding is there, an NVIDIA driver is not")


def _binding_fix(facts: Facts) -> str:
    """JetPack 6 has CUDA 12, JetPack 7 has CUDA 13; a binding of the other one does not load."""
    found = facts.machine.python.distributions
    binding = found.get("cuda-bindings") or found.get("cuda-python") or ""
    if facts.jetson is None or facts.jetson.jetpack is None or not binding:
        return ""
    wanted = int(facts.jetson.jetpack.cuda.partition(".")[0])
    if numbers_of(binding)[:1] == (wanted,):
        return ""
    return f"pip install 'cuda-python=={wanted}.*'"


def openvino_checks(facts: Facts) -> Iterator[Check]:
    """OpenVINO and its devices."""
    report = facts.report("openvino")
    if report.state == "absent":
        if facts.machine.architecture in ("x86_64", "AMD64"):
            yield Check("backends", "OpenVINO", "note", "not installed", "pip install 'acd-edge[openvino]'")
        return
    devices = report.values.get("devices", {})
    if not report.works or not devices:
        text = f"{report.version or 'installed'}, and does not work: {report.error or 'it finds no device'}"
        fix = other_file_fix(report) or "pip install --force-reinstall openvino"
        yield Check("backends", "OpenVINO", "bad", text, fix, "openvino-broken")
        return
    kinds = {name: [kind for kind in _PRECISIONS if kind in each["precisions"]] for name, each in devices.items()}
    told = [f"{name} ({', '.join(each)})" for name, each in kinds.items()]
    yield Check("backends", "OpenVINO", "ok", f"{report.version}, runs on {', '.join(told)}")


def _usable(report: Report) -> list[str]:
    return [name for name, told in report.values.get("providers", {}).items() if told["usable"]]


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def _whose(report: Report) -> str:
    return "the system's" if str(report.values.get("file", "")).startswith("/usr/lib/") else "pip's"


def numbers_of(version: str) -> tuple[int, ...]:
    """Every number of a version in order, to compare it; none where it is a word, which counts as too old."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
