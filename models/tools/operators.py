#!/usr/bin/env python3
"""Cases for every ONNX operator that Graft might serve, at every opset from 9 to 21, and a table of what comes of them.

    operators.py cases DIR                                      write the cases
    operators.py table DIR --graft GRAFT --out operators.md     run Graft on them
    operators.py small DIR OUT.zip                              pick few of them, for tests that have no Python

`operators.sh` does all of it. A case is a network with one input, whose first dimension is the batch, with one input tensor and
the output that is right for it. Nobody of this project wrote down what is right: it is
- "onnx node test": what the ONNX standard's own test of the operator expects, in the newest version of the operator that opset 21
  has, and in older versions where the test fits them too;
- "onnxruntime": what ONNX Runtime's CPU provider computes for the networks of written_cases.py, in every version of the operator.
Either way a case is kept only if ONNX's checker accepts it and ONNX Runtime, with and without its optimizations, agrees.

`case.json` says more: `since` and `until` are the opsets that share the operator's definition; `rows` tells whether every row of
the output belongs to one row of the input. Where it doesn't, the network mixes requests, and a server that batches must refuse it.
"""
import argparse
import collections
import concurrent.futures
import json
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile
import zlib

sys.dont_write_bytecode = True  # no __pycache__ beside the sources

from networks import NEWEST, OLDEST
from operator_cases import RUNTIME, STANDARD, write_cases


# ---------------------------------------------------------------- the table

RIGHT, REFUSED, WRONG, BROKEN = "right", "refused", "wrong", "broken"
TIMEOUT_S, AT_ONCE, REASON = 60, 2, 110
# What a reason says of this one case: names and numbers. Reasons that differ in nothing else are one.
PARTICULAR = re.compile(r"-?\d+")


def read_cases(folder):
    cases = [json.loads(file.read_text()) for file in sorted(folder.glob("*/case.json"))]
    if not cases:
        sys.exit(f"no cases in {folder}: make them with `operators.py cases {folder}`")
    return cases


def verdict(graft, folder, engine):
    """(RIGHT, REFUSED, WRONG or BROKEN, why)."""
    command = [graft, "model", "check", str(folder / "model.onnx"), "--engine", engine,
               "--against", str(folder / "test_data_set_0"), "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return BROKEN, f"no answer in {TIMEOUT_S} s"
    try:
        answer = json.loads(done.stdout)
        answer = answer if isinstance(answer, dict) else {}
    except ValueError:
        answer = {}
    refused, against = answer.get("refused"), answer.get("against")
    if done.returncode == 0 and isinstance(against, dict) and against.get("holds") is True:
        return RIGHT, ""
    if done.returncode == 1 and isinstance(against, dict) and against.get("holds") is False:
        return WRONG, json.dumps({key: value for key, value in against.items() if key != "holds"})
    if done.returncode == 2 and isinstance(refused, dict):
        # Every file here passes onnx.checker: to say that it is broken would be untrue.
        if any(word in str(refused.get("what_to_do")) for word in ("damaged", "contradicts")):
            return BROKEN, f"an untrue refusal: {refused.get('why')}"
        return REFUSED, " ".join(str(refused.get("why", "")).split())
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return BROKEN, f"exit status {done.returncode}: {said[-1][:200] if said else 'says nothing'}"


def cell(results):
    """What one engine made of some cases, as (text, kinds); rows with equal kinds are one."""
    found, reasons = collections.Counter(), collections.OrderedDict()
    for about, (kind, why) in results:
        if kind == REFUSED and not about["rows"]:
            found["mixing"] += 1
        else:
            found[kind] += 1
        if kind == REFUSED and about["rows"]:
            reasons.setdefault(PARTICULAR.sub("#", why), why)
    parts = []
    for kind in (RIGHT, WRONG, BROKEN):
        if found[kind]:
            parts.append(f"**{found[kind]} {kind}**" if kind != RIGHT else f"{found[kind]} right")
    if found[REFUSED]:
        why = "; ".join(shortened(reason) for reason in list(reasons.values())[:2])
        more = f"; and {len(reasons) - 2} other reasons" if len(reasons) > 2 else ""
        parts.append(f"{found[REFUSED]} refused: {why}{more}")
    if found["mixing"]:
        parts.append(f"{found['mixing']} refused that mix requests")
    kinds = frozenset(kind for kind in found if kind != "mixing" or len(found) == 1) | frozenset(reasons)
    return ", ".join(parts), kinds


def shortened(text):
    text = text.replace("|", "\\|")
    return text if len(text) <= REASON else text[:REASON].rsplit(" ", 1)[0] + " …"


def table_rows(results, engines):
    """(operator, first opset, last opset, cells); results: {(engine, case): (about, verdict)}."""
    spans = collections.defaultdict(lambda: collections.defaultdict(list))
    for (engine, _), (about, outcome) in sorted(results.items()):
        spans[(about["operator"], about["since"], about["until"])][engine].append((about, outcome))
    merged = []
    for (operator, first, last), found in sorted(spans.items()):
        kinds = [cell(found[engine])[1] for engine in engines]
        if merged and merged[-1][0] == operator and merged[-1][2] + 1 == first and merged[-1][3] == kinds:
            previous = merged[-1]
            previous[2] = last
            for engine in engines:
                previous[4][engine] += found[engine]
        else:
            merged.append([operator, first, last, kinds, found])
    for operator, first, last, _, found in merged:
        yield operator, first, last, [cell(found[engine])[0] for engine in engines]


def totals(results, engines):
    yield "| engine | cases | right | refused | refused that mix requests | wrong | broken |"
    yield "|---|---|---|---|---|---|---|"
    for engine in engines:
        outcomes = [(about["rows"], kind) for (e, _), (about, (kind, _)) in results.items() if e == engine]
        count = collections.Counter("mixing" if kind == REFUSED and not by_row else kind for by_row, kind in outcomes)
        yield f"| {engine} | {len(outcomes)} | {count[RIGHT]} | {count[REFUSED]} | {count['mixing']} | {count[WRONG]} | {count[BROKEN]} |"


def page(cases, results, engines):
    sources = collections.Counter(about["source"] for about in cases)
    operators = len({about["operator"] for about in cases})
    lines = [
        "# Operators", "",
        "What `graft model check` says of small networks of one operator each, by operator and opset. Made by",
        "`models/tools/operators.sh`; don't edit it.", "",
        f"{len(cases)} cases of {operators} operators, opsets {OLDEST} to {NEWEST}: {sources[STANDARD]} are the ONNX standard's own tests,",
        f"{sources[RUNTIME]} are networks whose outputs ONNX Runtime's CPU provider computed. *Right* means the same output,",
        "*refused* that Graft says before it serves the network that it won't. A network that mixes requests, where a row of",
        "the output doesn't belong to one row of the input, is to be refused: a batch would give it other rows.", "",
        *totals(results, engines), "",
        "| operator | opsets | " + " | ".join(engines) + " |", "|---|---|" + "---|" * len(engines)]
    for operator, first, last, cells in table_rows(results, engines):
        opsets = str(first) if first == last else f"{first}–{last}"
        lines.append(f"| {operator} | {opsets} | " + " | ".join(cells) + " |")
    return lines


def write_table(arguments):
    cases, engines = read_cases(arguments.folder), ["rten", "onnxruntime"]
    graft = shutil.which(arguments.graft)
    if not graft:
        sys.exit(f"{arguments.graft} is no program: build it with `cargo build --release`")
    work = [(engine, about) for engine in engines for about in cases]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = pool.map(lambda job: verdict(graft, arguments.folder / job[1]["case"], job[0]), work)
        results = {(engine, about["case"]): (about, outcome) for (engine, about), outcome in zip(work, outcomes)}
    lines = page(cases, results, engines)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n")
    if len(lines) > 400:
        print(f"{arguments.out} has {len(lines)} lines: too many to read", file=sys.stderr)
    bad = [(engine, case, *outcome) for (engine, case), (_, outcome) in sorted(results.items()) if outcome[0] in (WRONG, BROKEN)]
    for engine, case, kind, why in bad:
        print(f"{kind} with {engine}: {case}: {why}", file=sys.stderr)
    for (engine, case), (about, outcome) in sorted(results.items()):
        if outcome[0] == RIGHT and not about["rows"]:
            print(f"look at this: {engine} serves {case}, which seems to mix requests", file=sys.stderr)
    print("\n".join(totals(results, engines)))
    sys.exit(1 if bad else 0)


# ---------------------------------------------------------------- the small form

MOST_OF_AN_OPERATOR, LARGEST_CASE, DEAR = 6, 20_000, 1_000
FILES = ("model.onnx", "test_data_set_0/input_0.pb", "test_data_set_0/output_0.pb", "case.json")


def picked(folder, cases):
    """(Cases to take, those that matter most first; how many of them cover every operator and version)."""
    groups, costs, seen, chosen = collections.defaultdict(list), {}, collections.defaultdict(list), []
    for about in cases:
        contents = [(folder / about["case"] / file).read_bytes() for file in FILES]
        if sum(map(len, contents)) < LARGEST_CASE:
            groups[(about["operator"], about["since"])].append(about)
            # An entry's name stands in the archive twice, with 76 bytes around it.
            costs[about["case"]] = sum(len(zlib.compress(c, 9)) + 76 + 2 * (len(about["case"]) + 13) for c in contents)

    def preference(operator, about):
        """Networks that are to be served first, then cheap ones; then variants and sources that this operator hasn't had."""
        before = seen[operator]
        return (not about["rows"], costs[about["case"]] > DEAR, variant(about) in map(variant, before),
                [b["source"] for b in before].count(about["source"]), scattered(about))

    # Operators of many variants have most to get wrong.
    order = sorted(groups, key=lambda key: (-len(groups[key]), key))
    for turn in range(MOST_OF_AN_OPERATOR):
        for operator, since in order:
            free = [about for about in groups[(operator, since)] if about not in seen[operator] and (turn == 0 or about["rows"])]
            if free and (turn == 0 or len(seen[operator]) < MOST_OF_AN_OPERATOR):
                best = min(free, key=lambda about: preference(operator, about))
                seen[operator].append(best)
                chosen.append(best)
    return chosen, len(groups)


def variant(about):
    return re.sub(r"_at\d+$", "", about["case"]) if about["source"] == STANDARD else about["case"].split("_", 2)[2]


def scattered(about):
    """A fixed order that has nothing to do with the alphabet."""
    return zlib.crc32(variant(about).encode())


def write_small(arguments):
    cases = read_cases(arguments.folder)
    chosen, covering = picked(arguments.folder, cases)
    size = write_zip(arguments.folder, chosen, arguments.out)
    while size > arguments.limit_bytes and len(chosen) > covering:
        # About as many fewer as the file is too large by.
        fewer = min(len(chosen) - 1, int(len(chosen) * arguments.limit_bytes / size))
        chosen = chosen[:max(covering, fewer)]
        size = write_zip(arguments.folder, chosen, arguments.out)
    operators = {about["operator"] for about in chosen}
    print(f"{len(chosen)} cases of {len(operators)} operators in {covering} versions, {size} bytes")
    if size > arguments.limit_bytes:
        sys.exit(f"{arguments.out} has {size} bytes, over {arguments.limit_bytes}: one case of each version is too much")


def write_zip(folder, chosen, out):
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for about in sorted(chosen, key=lambda a: a["case"]):
            for file in sorted(FILES, key=lambda f: f.rsplit("/", 1)[-1]):
                entry = zipfile.ZipInfo(f"{about['case']}/{file.rsplit('/', 1)[-1]}", (1980, 1, 1, 0, 0, 0))
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                entry.create_system = 3
                archive.writestr(entry, (folder / about["case"] / file).read_bytes(), compresslevel=9)
    return out.stat().st_size


# ---------------------------------------------------------------- the command line

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("cases", help="write the cases; what DIR held before is deleted")
    command.add_argument("folder", type=pathlib.Path, metavar="DIR")
    command.add_argument("--only", default="*", metavar="PATTERN", help="cases whose names fit, such as 'Conv_*'")
    command.add_argument("--verbose", action="store_true", help="name every case that is dropped")
    command.set_defaults(function=write_cases)
    command = commands.add_parser("table", help="run Graft on the cases; exit status 1 if any is wrong or broken")
    command.add_argument("folder", type=pathlib.Path, metavar="DIR")
    command.add_argument("--graft", required=True, help="the program")
    command.add_argument("--out", required=True, type=pathlib.Path, metavar="FILE")
    command.set_defaults(function=write_table)
    command = commands.add_parser("small", help="pick few cases that cover every operator at every opset")
    command.add_argument("folder", type=pathlib.Path, metavar="DIR")
    command.add_argument("out", type=pathlib.Path, metavar="OUT.zip")
    command.add_argument("--limit-bytes", type=int, default=400_000, metavar="N")
    command.set_defaults(function=write_small)
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
