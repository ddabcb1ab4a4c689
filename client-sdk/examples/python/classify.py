#!/usr/bin/env python3
"""Says what a picture shows: the first layers here, the rest at the server, if that is sooner.

classify.py MODEL PICTURE... [--router HOST:PORT --ca ca.pem] [--slo-ms 300] [--prefer battery]
"""
import argparse
import asyncio
import pathlib

import graft


def where(answer):
    if answer.local is None:
        return f"cut at {answer.partition_point}, {answer.times.server_ms:.0f} ms at the server, {answer.times.network_ms:.0f} on the way"
    why = answer.local
    return "here: " + (getattr(why, "why", "") or type(why).__name__.lower().replace("_", " "))


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder with a model.toml, or an ONNX file")
    parser.add_argument("pictures", nargs="+", type=pathlib.Path, help="PNG or JPEG")
    parser.add_argument("--router", action="append", default=[], help="HOST:PORT; several times for several")
    parser.add_argument("--ca", type=pathlib.Path, help="the authority's certificate, ca.pem")
    parser.add_argument("--token", help="what `graft ca token` printed")
    parser.add_argument("--slo-ms", type=float, default=1000.0)
    parser.add_argument("--prefer", choices=[prefer.name.lower() for prefer in graft.Prefer])
    parser.add_argument("--cache", default=None, help="a folder: the model is measured once")
    given = parser.parse_args()

    pem = given.ca.read_bytes() if given.ca else None
    client = graft.Client(graft.ClientOptions(routers=given.router, authority_pem=pem, token=given.token, cache=given.cache))
    prefer = graft.Prefer[given.prefer.upper()] if given.prefer else None
    model = await graft.open_model(client, given.model, slo_ms=given.slo_ms, prefer=prefer)
    await model.prepare()
    for file in given.pictures:
        answer = await model.infer(graft.picture(file.read_bytes()))
        print(f"{file.name}: {answer.label} in {answer.times.total_ms:.0f} ms ({where(answer)})")


if __name__ == "__main__":
    asyncio.run(main())
