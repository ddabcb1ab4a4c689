use std::path::Path;

use graft_model::{Model, ModelErrorKind, Parts, ReadOptions, samples};
use graft_plan::Devices;

use crate::{Catalog, ReadFile, bounded, read_model};

#[test]
fn a_model_that_can_t_be_served_does_not_keep_others_from_it() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("good", samples::mlp(2, 8)),
        ("bad", replaced(&samples::mlp(2, 9), b"Relu", b"Ruin")),
    ] {
        let own = folder.path().join(name);
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("m.onnx"), bytes).unwrap();
        let manifest = format!("name = \"{name}\"\nfile = \"m.onnx\"\nlicense = \"MIT\"\n");
        std::fs::write(own.join("model.toml"), manifest).unwrap();
    }
    let catalog = Catalog::read(folder.path()).unwrap();
    assert_eq!(catalog.entries().len(), 1);
    assert_eq!(catalog.left_out()[0].operator(), Some("Ruin"));
    std::fs::remove_dir_all(folder.path().join("good")).unwrap();
    assert!(Catalog::read(folder.path()).is_err());
}

#[test]
fn a_model_with_several_sizes_is_a_model_for_each() {
    let folder = tempfile::tempdir().unwrap();
    let write = |input: &str| {
        std::fs::write(folder.path().join("m.onnx"), samples::line()).unwrap();
        let manifest = format!("name = \"line\"\nfile = \"m.onnx\"\nlicense = \"MIT\"\n[input]\n{input}");
        std::fs::write(folder.path().join("model.toml"), manifest).unwrap();
    };
    write("sizes = [[1, 8, 16], [1, 8, 32]]\npad = 0.5\n");
    let catalog = Catalog::read(folder.path()).unwrap();
    let names = catalog.entries().iter().map(|e| e.manifest.name.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["line@1x8x16", "line@1x8x32"]);
    assert_eq!(catalog.find("line").unwrap().manifest.name, "line@1x8x32");
    assert_ne!(catalog.entries()[0].info.id, catalog.entries()[1].info.id);
    let takes = |shape: &[usize]| {
        let mut sizes = catalog.sizes("line").into_iter();
        sizes
            .find(|e| e.takes("line", shape))
            .map(|e| e.manifest.name.clone())
    };
    assert_eq!(takes(&[1, 8, 16]).as_deref(), Some("line@1x8x16"));
    assert_eq!(takes(&[1, 5, 17]).as_deref(), Some("line@1x8x32"));
    assert_eq!(
        (takes(&[1, 8, 33]), takes(&[8, 16]), takes(&[1, 0, 3])),
        (None, None, None)
    );

    // Without a number to fill up with, inputs have exactly one of the sizes.
    write("sizes = [[1, 8, 16], [1, 8, 32]]\n");
    let exact = Catalog::read(folder.path()).unwrap();
    assert!(exact.entries()[1].takes("line", &[1, 8, 32]) && !exact.entries()[1].takes("line", &[1, 8, 31]));
    for (wrong, why) in [
        ("sizes = [[1, 8, 32], [1, 8, 16]]\n", "more elements"),
        ("sizes = [[1, 8, 32]]\n", "2 to 16"),
        ("sizes = [[1, 8, 16], [8, 32]]\n", "as many dimensions"),
        (
            "sizes = [[1, 8, 16], [1, 8, 32]]\nshape = [1, 8, 16]\n",
            "a shape",
        ),
        ("pad = 0.0\n", "has no sizes"),
    ] {
        write(wrong);
        let error = Catalog::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for at in 0..=out.len() - from.len() {
        if &out[at..at + from.len()] == from {
            out[at..at + from.len()].copy_from_slice(to);
        }
    }
    out
}

#[test]
fn a_file_that_is_not_there_is_an_error_that_names_it() {
    let error = read_model(Path::new("/nowhere/m.onnx"), &ReadOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::Io);
    assert!(
        error.to_string().starts_with("/nowhere/m.onnx: can't be read"),
        "{error}"
    );
    let error = Devices::read(Path::new("/nowhere/devices.json")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nowhere/devices.json: file: can't be read"),
        "{error}"
    );
}

#[test]
fn no_more_of_a_file_is_read_than_its_kind_may_have() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    std::fs::write(&file, [7; 100]).unwrap();
    assert_eq!(bounded::read(&file, 100).unwrap(), [7; 100]);
    let error = bounded::read(&file, 99).unwrap_err();
    assert!(error.to_string().contains("more than 99 bytes"), "{error}");
    // A device that never ends says that it has no bytes.
    #[cfg(unix)]
    assert!(bounded::read(Path::new("/dev/zero"), 1000).is_err());
}

#[test]
fn weights_beside_a_model_are_read_and_missed_when_they_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let options = ReadOptions::default();
    let model = Model::parse(Path::new("m.onnx"), &samples::mlp(2, 64), &options).unwrap();
    let weights = folder.path().join(Parts::WEIGHTS);
    let parts = model
        .parts_beside_weights(std::fs::File::create(&weights).unwrap())
        .unwrap();
    let file = folder.path().join("m.onnx");
    let part = parts.part(model.info().whole().unwrap(), None).unwrap();
    std::fs::write(&file, part.bytes).unwrap();
    assert!(std::fs::metadata(&weights).unwrap().len() >= 64 * 64 * 4);
    let again = read_model(&file, &options).unwrap();
    assert_eq!(again.info().weights_bytes(), model.info().weights_bytes());
    std::fs::remove_file(&weights).unwrap();
    let error = read_model(&file, &options).unwrap_err();
    assert!(
        error.to_string().contains("weights' file weights can't be read"),
        "{error}"
    );
}
