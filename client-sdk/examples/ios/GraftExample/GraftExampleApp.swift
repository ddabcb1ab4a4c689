import Graft
import Network
import PhotosUI
import SwiftUI

/// The site's router; with ca.pem in the bundle. Without it all layers run here.
let router = "serve.example:4433"
/// The model's folder in the bundle.
let modelFolder = "efficientnet-lite0"

@main
struct GraftExampleApp: App {
    var body: some Scene {
        WindowGroup { Screen() }
    }
}

/// Holds the client, and the model for a wish.
@MainActor
final class Looker: ObservableObject {
    @Published var said = "opening the model"
    private let client: Client?
    private var model: Model?
    private let monitor = NWPathMonitor()

    init() {
        let pem = Bundle.main.url(forResource: "ca", withExtension: "pem").flatMap { try? Data(contentsOf: $0) }
        let cache = FileManager.default.urls(for: .cachesDirectory, in: .userDomainMask).first?.appendingPathComponent("graft")
        do {
            let options = ClientOptions(routers: pem == nil ? [] : [router], authorityPem: pem, cache: cache?.path)
            client = try Client(options: options)
        } catch {
            client = nil
            said = error.localizedDescription
        }
        let client = client
        monitor.pathUpdateHandler = { _ in try? client?.networkChanged() }
        monitor.start(queue: .global(qos: .utility))
    }

    func open(prefer: Prefer) async {
        guard let client, let folder = Bundle.main.path(forResource: modelFolder, ofType: nil) else { return }
        do {
            let options = ModelOptions(sloMs: 500, prefer: prefer)
            model = try await client.open(source: .path(path: folder), options: options, progress: nil)
            said = "ready"
        } catch {
            said = error.localizedDescription
        }
    }

    func look(at picture: Data) async {
        guard let model else { return }
        do {
            said = told(try await model.infer(input: Input.picture(picture)))
        } catch {
            said = error.localizedDescription
        }
    }

    private func told(_ answer: Answer) -> String {
        let label = answer.label ?? "?"
        let total = Int(answer.times.totalMs)
        guard let local = answer.local else {
            return "\(label) in \(total) ms: handed over at cut point \(answer.partitionPoint), \(Int(answer.times.serverMs)) ms at the server"
        }
        return "\(label) in \(total) ms, here: \(local)"
    }
}

/// Picture in; label, where it ran and how long out.
struct Screen: View {
    @StateObject private var looker = Looker()
    @State private var wish = 1.0
    @State private var picked: PhotosPickerItem?
    @State private var shown: UIImage?

    private let wishes: [(Prefer, String)] = [(.speed, "speed"), (.server, "the server"), (.battery, "battery"), (.bytes, "bytes")]

    var body: some View {
        VStack(spacing: 16) {
            PhotosPicker("Picture", selection: $picked, matching: .images)
            Text("What counts where there is time to spare: \(wishes[Int(wish)].1)")
            Slider(value: $wish, in: 0...3, step: 1)
            if let shown {
                Image(uiImage: shown).resizable().scaledToFit()
            }
            Text(looker.said).font(.title3)
            Spacer()
        }
        .padding()
        .task(id: wish) { await looker.open(prefer: wishes[Int(wish)].0) }
        .task(id: picked) {
            // Whatever the photograph's format is, it becomes a JPEG.
            guard let data = try? await picked?.loadTransferable(type: Data.self), let image = UIImage(data: data),
                let jpeg = image.jpegData(compressionQuality: 0.9)
            else { return }
            shown = image
            await looker.look(at: jpeg)
        }
    }
}
