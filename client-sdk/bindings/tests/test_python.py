"""The Python package against real processes."""

import asyncio

import graft
import numpy
import onnxruntime
import pytest
from conftest import MODEL

PICTURE = (MODEL / "espresso.png").read_bytes()


def client(site, **options):
    return graft.Client(graft.ClientOptions(routers=[site.router], authority_pem=site.authority.read_bytes(), **options))


def run(future):
    return asyncio.run(asyncio.wait_for(future, 120))


def test_layers_run_here_and_at_the_server(site):
    async def main():
        model = await graft.open_model(client(site), MODEL, slo_ms=5000, partition_point=2, exact=True)
        assert await model.prepare()
        assert model.name() == "efficientnet-lite0" and model.takes_pictures()
        before = site.served()
        answer = await model.infer(graft.picture(PICTURE))
        assert answer.label == "espresso"
        assert answer.local is None and answer.partition_point == 2 and answer.in_time
        assert answer.times.server_ms > 0 and answer.times.device_ms > 0 and answer.request_id
        assert site.served() == before + 1
        scores = graft.array(answer.outputs[0])
        assert scores.shape == tuple(model.outputs()[0].shape) and model.labels()[scores.argmax()] == "espresso"
        alone = await graft.open_model(graft.Client(graft.ClientOptions()), MODEL)
        here = await alone.infer(graft.picture(PICTURE))
        assert here.local.is_unreachable() and here.label == "espresso"
        assert numpy.abs(graft.array(here.outputs[0]) - scores).max() < 1e-2
        assert site.served() == before + 1
        # As the model's features say, in a fraction of the bytes.
        coded = await (await graft.open_model(client(site), MODEL, slo_ms=5000, partition_point=2)).infer(graft.picture(PICTURE))
        assert coded.local is None and coded.label == "espresso" and 0 < coded.bytes_sent * 4 < answer.bytes_sent
        assert 0 < numpy.abs(graft.array(coded.outputs[0]) - scores).max() < 1

    run(main())


def test_arrays_are_read_where_they_are(site):
    async def main():
        model = await graft.open_model(graft.Client(graft.ClientOptions()), MODEL)
        [takes] = model.inputs()
        array = numpy.random.default_rng(3).standard_normal(takes.shape, dtype=numpy.float32)
        array.setflags(write=False)
        held = await model.infer(graft.tensors(model, array))
        array = array.copy()
        assert graft.memory(array).is_memory()
        given = graft.tensors(model, array)
        array[:] = 0
        there = await model.infer(given)
        assert held.outputs == there.outputs
        with pytest.raises(graft.GraftError.Input, match="input"):
            graft.tensors(model, array.ravel()[:-1].copy())
        with pytest.raises(graft.GraftError.Input, match="tensors"):
            graft.tensors(model)

    run(main())


def test_pixels_are_a_picture(site):
    async def main():
        model = await graft.open_model(graft.Client(graft.ClientOptions()), MODEL)
        grey = numpy.full((300, 400, 4), 127, dtype=numpy.uint8)
        answer = await model.infer(graft.pixels(grey, 400, 300, graft.PixelFormat.BGRA))
        plain = await model.infer(graft.pixels(grey[:, :, :3].copy(), 400, 300))
        assert answer.outputs == plain.outputs and answer.times.picture_ms > 0

    run(main())


def test_a_model_from_memory_is_measured_once_and_says_how_far_it_is(site, tmp_path):
    async def main():
        source = graft.ModelSource.BYTES(
            network=(MODEL / "efficientnet-lite0.onnx").read_bytes(),
            manifest=(MODEL / "model.toml").read_text(),
            labels=(MODEL / "labels.txt").read_text(),
            features=(MODEL / "features.bin").read_bytes(),
        )
        one = client(site, cache=str(tmp_path / "cache"))
        heard = []
        model = await graft.open_model(one, source, progress=lambda done, all: heard.append((done, all)))
        assert heard and all(done <= of for done, of in heard)
        known = len(heard)
        again = await graft.open_model(one, source, progress=lambda done, all: heard.append((done, all)))
        assert len(heard) == known and again.identity() == model.identity()

    run(main())


def test_wishes_are_kept(site):
    async def main():
        one = client(site)
        here = await graft.open_model(one, MODEL, slo_ms=5000, prefer=graft.Prefer.BYTES)
        await here.prepare()
        answer = await here.infer(graft.picture(PICTURE))
        assert answer.local.is_faster_alone() and answer.partition_point == here.last_cut_point()
        # What crosses the first cut points is larger than the picture; a bound on bytes leaves later ones.
        small = await graft.open_model(one, MODEL, slo_ms=5000, prefer=graft.Prefer.SPEED, most_bytes=1, keep_inputs=True)
        await small.prepare()
        assert (await small.infer(graft.picture(PICTURE))).partition_point == small.last_cut_point()

    run(main())


def test_inferences_can_be_given_up_and_run_side_by_side(site):
    async def main():
        model = await graft.open_model(client(site), MODEL, slo_ms=5000)
        await model.prepare()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(model.infer(graft.picture(PICTURE)), 0.001)
        many = await asyncio.gather(*(model.infer(graft.picture(PICTURE)) for _ in range(4)))
        assert {answer.label for answer in many} == {"espresso"}

    run(main())


def test_what_can_t_be_is_an_error_of_its_kind(site):
    with pytest.raises(graft.GraftError.Options, match="ca.pem"):
        graft.Client(graft.ClientOptions(routers=["a:1"]))
    with pytest.raises(graft.GraftError.Options):
        graft.Client(graft.ClientOptions(routers=["a:1"], authority_pem=b"none"))

    async def main():
        one = client(site)
        with pytest.raises(graft.GraftError.Model, match="no-such"):
            await graft.open_model(one, "no-such.onnx")
        with pytest.raises(graft.GraftError.Options, match="slo_ms"):
            await graft.open_model(one, MODEL, slo_ms=-1)
        with pytest.raises(graft.GraftError.Options, match="999"):
            await graft.open_model(one, MODEL, partition_point=999)
        with pytest.raises(graft.GraftError.Options, match="kept"):
            await graft.open_model(one, MODEL, partition_point=0, keep_inputs=True)
        model = await graft.open_model(one, MODEL)
        with pytest.raises(graft.GraftError.Input, match="PNG or JPEG"):
            await model.infer(graft.picture(b"no picture"))

    run(main())


class OnnxRuntime(graft.LayerRunner):
    """Layers on onnxruntime, of files that `graft model split` wrote."""

    def __init__(self, files):
        self.sessions = {layers: onnxruntime.InferenceSession(str(file)) for layers, file in files.items()}
        self.ran = []

    def name(self):
        return "onnxruntime"

    def layers(self):
        return [graft.Layers(start=start, end=end) for start, end in self.sessions]

    def run(self, layers, tensors):
        session = self.sessions[layers.start, layers.end]
        self.ran.append((layers.start, layers.end))
        given = {own.name: graft.array(tensor)[None] for own, tensor in zip(session.get_inputs(), tensors)}
        outputs = session.run(None, given)
        return [
            graft.TensorValue(name=own.name, shape=list(array.shape[1:]), element_type=graft.ElementType.F32, data=array.tobytes())
            for own, array in zip(session.get_outputs(), outputs)
        ]


def test_an_app_runs_layers_itself(site, tmp_path):
    whole = MODEL / "efficientnet-lite0.onnx"
    head, tail = tmp_path / "head.onnx", tmp_path / "tail.onnx"
    site.graft("model", "split", MODEL, "--at", "4", "--head", head, "--tail", tail)

    async def main():
        one = client(site)
        last = (await graft.open_model(one, MODEL)).last_cut_point()
        own = OnnxRuntime({(0, 4): head, (0, last): whole})
        model = await graft.open_on(one, own, MODEL, slo_ms=5000, partition_point=4, exact=True)
        assert await model.prepare()
        own.ran.clear()
        answer = await model.infer(graft.picture(PICTURE))
        assert answer.local is None and answer.label == "espresso" and own.ran == [(0, 4)]
        # Without a router it runs all of them; with the tail it runs that.
        for files, ran in [({(0, 4): head, (0, last): whole}, [(0, last)]), ({(0, 4): head, (4, last): tail, (0, last): whole}, [(0, last)])]:
            own = OnnxRuntime(files)
            here = await graft.open_on(graft.Client(graft.ClientOptions()), own, MODEL)
            own.ran.clear()
            alone = await here.infer(graft.picture(PICTURE))
            assert alone.local.is_unreachable() and alone.label == "espresso" and own.ran == ran
        assert numpy.abs(graft.array(alone.outputs[0]) - graft.array(answer.outputs[0])).max() < 1e-2
        with pytest.raises(graft.GraftError.Options, match="partition point 3"):
            await graft.open_on(one, own, MODEL, partition_point=3)

    run(main())


def test_a_head_that_fails_is_told(site):
    class Broken(graft.LayerRunner):
        known = True

        def name(self):
            return "broken"

        def layers(self):
            return [graft.Layers(start=0, end=2)]

        def run(self, layers, tensors):
            if self.known:
                raise graft.LayerError.Failed(why="no such delegate")
            raise ValueError("not foreseen")

    async def main():
        for known, words in [(True, "broken: no such delegate"), (False, "broken: .*not foreseen")]:
            broken = Broken()
            broken.known = known
            with pytest.raises(graft.GraftError.Device, match=words):
                await graft.open_on(client(site), broken, MODEL)

    run(main())


def test_a_router_that_is_lost_costs_no_inference(site):
    async def main():
        model = await graft.open_model(client(site), MODEL, slo_ms=5000, partition_point=2)
        assert await model.prepare()
        site.stop("router")
        answer = await model.infer(graft.picture(PICTURE))
        assert answer.label == "espresso" and answer.in_time
        assert answer.local.is_no_answer() or answer.local.is_unreachable()
        site.start("router")
        site.until_ready()
        assert await model.prepare()
        answer = await model.infer(graft.picture(PICTURE))
        assert answer.local is None, answer.local

    run(main())
