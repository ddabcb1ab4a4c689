//! The short form of fuzzing: each target takes its seeds, its corpus, and changes of these, for a second or so.

use std::path::Path;
use std::time::{Duration, Instant};

use graft_fuzz_targets::TARGETS;

/// Time for a target's changed inputs.
const EACH: Duration = Duration::from_millis(1500);
/// Longest time for one input, in a debug build on a busy machine.
const ONE: Duration = Duration::from_secs(5);

/// SplitMix64: numbers that look random, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Changes an input: bytes, lengths, pieces, or what another input has there.
fn changed(numbers: &mut Numbers, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut input = inputs[numbers.below(inputs.len())].clone();
    for _ in 0..1 + numbers.below(4) {
        let at = numbers.below(input.len());
        match numbers.below(7) {
            0 if !input.is_empty() => input[at] = numbers.next() as u8,
            1 if !input.is_empty() => input[at] ^= 1 << numbers.below(8),
            2 => input.truncate(at),
            3 => input.insert(at, [0, 0xff, b'"', b'[', b'-', b'9'][numbers.below(6)]),
            4 => {
                let end = at + numbers.below(input.len() - at + 1).min(64);
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            5 => {
                let other = &inputs[numbers.below(inputs.len())];
                let from = numbers.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let end = at + numbers.below(input.len() - at + 1).min(16);
                input.drain(at..end);
            }
        }
    }
    input.truncate(1 << 16);
    input
}

#[test]
fn bytes_of_others_are_read_or_refused() {
    let corpus = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus"));
    for target in TARGETS {
        let mut inputs = (target.seeds)();
        let files = std::fs::read_dir(corpus.join(target.name)).into_iter().flatten();
        inputs.extend(files.filter_map(|file| std::fs::read(file.ok()?.path()).ok()));
        assert!(!inputs.is_empty(), "{} has no inputs", target.name);
        let (mut numbers, mut count) = (Numbers(7), 0);
        let run = |input: &[u8]| {
            let began = Instant::now();
            let ended = std::panic::catch_unwind(|| target.run(input));
            let took = began.elapsed();
            assert!(ended.is_ok(), "{} panics on {input:?}", target.name);
            assert!(took < ONE, "{} takes {took:?} for {input:?}", target.name);
            ended.is_ok_and(|sound| sound)
        };
        let seeds = (target.seeds)();
        for input in &seeds {
            assert!(run(input), "{} does not take its seed {input:?}", target.name);
        }
        for (decoder, decode) in target.decoders {
            assert!(
                seeds.iter().any(|seed| decode(seed)),
                "{decoder} of {} takes no seed",
                target.name
            );
        }
        for input in &inputs {
            run(input);
        }
        let start = Instant::now();
        while start.elapsed() < EACH {
            run(&changed(&mut numbers, &inputs));
            count += 1;
        }
        assert!(count > 0, "{}: there was no time for changed inputs", target.name);
        println!("{}: {count} inputs", target.name);
    }
}

#[test]
fn each_target_is_there_for_cargo_fuzz() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz_targets"));
    let manifest = std::fs::read_to_string(folder.join("../Cargo.toml")).expect("a manifest");
    for target in TARGETS {
        let name = target.name;
        let file = std::fs::read_to_string(folder.join(format!("{name}.rs"))).expect("a file");
        assert!(
            file.contains(&format!("graft_fuzz_targets::{}", name.to_uppercase())),
            "{name}"
        );
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}
