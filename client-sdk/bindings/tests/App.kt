// An app in Kotlin: what it is told is in its environment. Ends with 0 if all is as it must be.

import graft.sdk.Bytes
import graft.sdk.Client
import graft.sdk.ClientOptions
import graft.sdk.GraftException
import graft.sdk.Input
import graft.sdk.Local
import graft.sdk.ModelOptions
import graft.sdk.ModelSource
import graft.sdk.bytes
import graft.sdk.floats
import graft.sdk.open
import graft.sdk.picture
import java.io.File
import java.nio.ByteBuffer
import java.util.concurrent.atomic.AtomicInteger
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeoutOrNull

fun told(name: String) = System.getenv("GRAFT_$name")!!

inline fun <reified E : Exception> fails(what: String, run: () -> Unit) {
    try {
        run()
    } catch (error: Exception) {
        check(error is E) { "$what: $error" }
        return
    }
    error("$what did not fail")
}

fun main() = runBlocking {
    val photograph = File(told("PICTURE")).readBytes()
    fails<GraftException.Options>("no authority") { Client(ClientOptions(routers = listOf("a:1"))) }
    val client = Client(ClientOptions(routers = listOf(told("ROUTER")), authorityPem = File(told("AUTHORITY")).readBytes()))
    fails<GraftException.Model>("no model") { client.open(ModelSource.Path("no-such.onnx"), ModelOptions(), null) }

    val steps = AtomicInteger()
    val options = ModelOptions(sloMs = 5000.0, partitionPoint = 2u)
    val model = client.open(ModelSource.Path(told("MODEL")), options) { done, all ->
        check(done <= all)
        steps.incrementAndGet()
    }
    check(steps.get() > 0) { "it was not measured" }
    check(model.prepare()) { "no router" }
    val answer = model.infer(picture(photograph))
    check(answer.label == "espresso" && answer.local == null && answer.inTime) { answer }
    check(answer.partitionPoint == 2.toUShort() && answer.times.serverMs > 0) { answer }
    val scores = answer.outputs.single().floats()
    val best = (0 until scores.remaining()).maxBy { scores[it] }
    check(model.labels()[best] == "espresso")

    // Direct memory is read where it is, within position and limit.
    val direct = ByteBuffer.allocateDirect(photograph.size + 7)
    direct.position(3)
    direct.put(photograph)
    direct.flip().position(3)
    check(bytes(direct) is Bytes.Memory)
    check(model.infer(Input.encoded(bytes(direct))).label == "espresso")

    val shape = model.inputs().single().shape
    val count = shape.fold(1) { all, side -> all * side.toInt() }
    model.infer(model.floats(FloatArray(count)))
    fails<GraftException.Input>("too short") { model.floats(FloatArray(count - 1)) }

    // An inference that nobody waits for is given up; others go on.
    withTimeoutOrNull(1) { model.infer(picture(photograph)) }
    val many = List(4) { async { model.infer(picture(photograph)) } }.awaitAll()
    check(many.all { it.label == "espresso" })

    Client(ClientOptions()).use { alone ->
        alone.open(ModelSource.Path(told("MODEL")), ModelOptions(), null).use { here ->
            val local = here.infer(picture(photograph)).local
            check(local is Local.Unreachable) { "$local" }
        }
    }
    model.close()
    client.close()
    println("espresso in ${answer.times.totalMs.toInt()} ms, of which the server ${answer.times.serverMs.toInt()}")
}
