import Foundation

public extension Input {
    /// A PNG or JPEG, to run a model on.
    static func picture(_ encoded: Data) throws -> Input {
        try encoded.withUnsafeBytes { try Input.encoded(bytes: .memory($0)) }
    }
}

public extension Bytes {
    /// Bytes that are not copied: they must stay as they are until the call that takes them has returned.
    static func memory(_ buffer: UnsafeRawBufferPointer) -> Bytes {
        .memory(address: UInt64(UInt(bitPattern: buffer.baseAddress)), length: UInt64(buffer.count))
    }
}

public extension Model {
    /// Floats for each of the model's inputs, in its order.
    func floats(_ arrays: [[Float]]) throws -> Input {
        try tensors(tensors: arrays.map { array in .held(bytes: array.withUnsafeBytes { Data($0) }) })
    }
}

public extension TensorValue {
    /// An output's elements; none unless it is of 32-bit floats.
    var floats: [Float]? {
        guard elementType == .f32 else { return nil }
        return data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }
}
