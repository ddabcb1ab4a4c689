//! Every key of every program's configuration is told of by its `--help` and by docs/configuration.md.

use std::path::Path;
use std::process::Command;

use graft_integration_tests::programs;

/// Programs, with the headings of their configurations' tables; the empty one is the file itself.
const PROGRAMS: [(&str, &[&str]); 3] = [
    ("graft-router", &["", "[tls]"]),
    ("graft-planner", &["", "[tls]"]),
    ("graft-worker", &["", "[tls]", "[emulated]", "[[devices]]"]),
];

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(programs().join(program))
        .args(arguments)
        .output()
        .expect("it runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// The keys that a program takes in a table, as it names them to somebody who used another.
fn keys(program: &str, table: &str, folder: &Path) -> Vec<String> {
    let file = folder.join("wrong.toml");
    std::fs::write(&file, format!("{table}\nno_such_key = 1\n")).expect("a file");
    let told = output(program, &["--config", &file.to_string_lossy()]);
    let (_, list) = told
        .split_once("expected")
        .unwrap_or_else(|| panic!("{program} names no keys: {told}"));
    let list = list.lines().next().unwrap_or_default();
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_key_stands_in_help_and_documentation() {
    let folder = tempfile::tempdir().expect("a folder");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let docs = std::fs::read_to_string(docs).expect("the documentation");
    for (program, tables) in PROGRAMS {
        let help = output(program, &["--help"]);
        let mut count = 0;
        for table in tables {
            let keys = keys(program, table, folder.path());
            count += keys.len();
            for key in keys {
                let is_table = tables.iter().any(|table| table.trim_matches(['[', ']']) == key);
                let in_help = if is_table {
                    format!("[{key}]")
                } else {
                    format!("{key} = ")
                };
                assert!(help.contains(&in_help), "{program} --help says nothing of {key}");
                let in_docs = [format!("`{key}`"), format!("] {key}`"), format!("[{key}]")];
                let told = in_docs.iter().any(|name| docs.contains(name));
                assert!(told, "docs/configuration.md says nothing of {key} of {program}");
            }
        }
        assert!(count >= 8, "{program} has {count} keys");
    }
}
