package org.example.graft

import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.net.ConnectivityManager
import android.net.Network
import android.net.Uri
import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.compose.setContent
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import androidx.activity.result.contract.ActivityResultContracts.TakePicturePreview
import androidx.compose.foundation.Image
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.material3.Button
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Slider
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableFloatStateOf
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.rememberCoroutineScope
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.asImageBitmap
import androidx.compose.ui.unit.dp
import graft.sdk.Answer
import graft.sdk.Client
import graft.sdk.ClientOptions
import graft.sdk.GraftException
import graft.sdk.Input
import graft.sdk.Local
import graft.sdk.Model
import graft.sdk.ModelOptions
import graft.sdk.ModelSource
import graft.sdk.PixelFormat
import graft.sdk.Pixels
import graft.sdk.Prefer
import graft.sdk.bytes
import java.io.FileNotFoundException
import java.nio.ByteBuffer
import kotlinx.coroutines.launch

/** The site's router; with ca.pem among the assets. Without it all layers run here. */
private const val ROUTER = "serve.example:4433"
private const val MODEL = "efficientnet-lite0"

/** Photograph or picture in; label, where it ran and how long out. */
class MainActivity : ComponentActivity() {
    private lateinit var client: Client

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val authority = try {
            assets.open("ca.pem").use { it.readBytes() }
        } catch (_: FileNotFoundException) {
            null
        }
        client = Client(
            ClientOptions(
                routers = if (authority == null) emptyList() else listOf(ROUTER),
                authorityPem = authority,
                cache = cacheDir.resolve("graft").path,
            ),
        )
        getSystemService(ConnectivityManager::class.java).registerDefaultNetworkCallback(
            object : ConnectivityManager.NetworkCallback() {
                override fun onAvailable(network: Network) = client.networkChanged()
            },
        )
        setContent { MaterialTheme { Screen(client, ::model, ::decoded) } }
    }

    private fun bytes(file: String) = assets.open("$MODEL/$file").use { it.readBytes() }

    private fun text(file: String) = bytes(file).decodeToString()

    private fun model(): ModelSource = ModelSource.Bytes(
        network = bytes("$MODEL.onnx"),
        manifest = text("model.toml"),
        labels = text("labels.txt"),
        features = bytes("features.bin"),
    )

    private fun decoded(uri: Uri): Bitmap? = contentResolver.openInputStream(uri)?.use(BitmapFactory::decodeStream)
}

private fun pixels(bitmap: Bitmap): Input {
    val plain = bitmap.copy(Bitmap.Config.ARGB_8888, false)
    val buffer = ByteBuffer.allocateDirect(plain.byteCount)
    plain.copyPixelsToBuffer(buffer)
    buffer.rewind()
    val size = plain.width.toUInt() to plain.height.toUInt()
    return Input.pixels(Pixels(bytes(buffer), size.first, size.second, plain.rowBytes.toUInt(), PixelFormat.RGBA))
}

private val WISHES = listOf(Prefer.SPEED to "speed", Prefer.SERVER to "the server", Prefer.BATTERY to "battery", Prefer.BYTES to "bytes")

@Composable
private fun Screen(client: Client, source: () -> ModelSource, decoded: (Uri) -> Bitmap?) {
    val scope = rememberCoroutineScope()
    var wish by remember { mutableFloatStateOf(1f) }
    var model by remember { mutableStateOf<Model?>(null) }
    var shown by remember { mutableStateOf<Bitmap?>(null) }
    var said by remember { mutableStateOf("opening the model") }
    val (prefer, wished) = WISHES[wish.toInt()]

    LaunchedEffect(prefer) {
        try {
            model = client.open(source(), ModelOptions(sloMs = 500.0, prefer = prefer), null)
            said = "ready"
        } catch (error: GraftException) {
            said = error.message ?: "the model can't be opened"
        }
    }
    fun look(bitmap: Bitmap?) {
        val ready = model
        if (bitmap == null || ready == null) return
        shown = bitmap
        scope.launch {
            said = try {
                told(ready.infer(pixels(bitmap)))
            } catch (error: GraftException) {
                error.message ?: "it failed"
            }
        }
    }
    val camera = rememberLauncherForActivityResult(TakePicturePreview()) { look(it) }
    val gallery = rememberLauncherForActivityResult(PickVisualMedia()) { uri -> look(uri?.let(decoded)) }

    Column(Modifier.safeDrawingPadding().padding(16.dp), verticalArrangement = Arrangement.spacedBy(12.dp)) {
        Row(horizontalArrangement = Arrangement.spacedBy(12.dp)) {
            Button(onClick = { camera.launch(null) }) { Text("Camera") }
            Button(onClick = { gallery.launch(PickVisualMediaRequest(PickVisualMedia.ImageOnly)) }) { Text("Picture") }
        }
        Text("What counts where there is time to spare: $wished")
        Slider(wish, { wish = it }, valueRange = 0f..3f, steps = 2)
        shown?.let { Image(it.asImageBitmap(), null, Modifier.fillMaxWidth()) }
        Text(said, style = MaterialTheme.typography.titleLarge)
    }
}

private fun told(answer: Answer): String {
    val where = when (val local = answer.local) {
        null -> "handed over at cut point ${answer.partitionPoint}, ${answer.times.serverMs.toInt()} ms at the server"
        is Local.Unreachable -> "here: ${local.why}"
        is Local.Refused -> "here: ${local.why}"
        is Local.NoAnswer -> "here: ${local.why}"
        else -> "here: ${local::class.simpleName}"
    }
    return "${answer.label} in ${answer.times.totalMs.toInt()} ms ($where)"
}
