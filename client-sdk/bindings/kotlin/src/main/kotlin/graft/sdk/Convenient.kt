package graft.sdk

import com.sun.jna.Native
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer

/**
 * The bytes between a buffer's position and its limit. Those of a direct buffer are not copied: it must stay as it is until the call
 * that takes them has returned.
 */
fun bytes(buffer: ByteBuffer): Bytes {
    if (buffer.isDirect) {
        val begin = com.sun.jna.Pointer.nativeValue(Native.getDirectBufferPointer(buffer)) + buffer.position()
        return Bytes.Memory(begin.toULong(), buffer.remaining().toULong())
    }
    return Bytes.Held(ByteArray(buffer.remaining()).also { buffer.duplicate().get(it) })
}

/** A PNG or JPEG, to run a model on. */
fun picture(encoded: ByteArray): Input = Input.encoded(Bytes.Held(encoded))

/** Floats for each of a model's inputs, in its order. */
fun Model.floats(vararg arrays: FloatArray): Input =
    tensors(
        arrays.map { array ->
            val buffer = ByteBuffer.allocateDirect(4 * array.size).order(ByteOrder.LITTLE_ENDIAN)
            buffer.asFloatBuffer().put(array)
            bytes(buffer)
        },
    )

/** An output's elements; it must be of 32-bit floats. */
fun TensorValue.floats(): FloatBuffer {
    require(elementType == ElementType.F32) { "$name is of $elementType" }
    return ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
}

/** Opens a model; [progress] hears how far measuring is, on a thread of the library's. */
suspend fun Client.open(
    source: ModelSource,
    options: ModelOptions = ModelOptions(),
    progress: (done: Int, all: Int) -> Unit,
): Model =
    open(
        source,
        options,
        object : ProgressListener {
            override fun onProgress(done: UInt, all: UInt) = progress(done.toInt(), all.toInt())
        },
    )
