//! Tensors that are coded and decoded, and bytes of others.

use graft_features::fit::{Coarseness, fit};
use graft_features::{Coding, CutCoding, Features};
use proptest::prelude::*;

/// Channels side by side, some of them as a Relu leaves them, one of zeros.
fn tensor(channels: usize, run: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut part = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut all = vec![];
    for channel in 0..channels {
        for _ in 0..run {
            let bell = (0..12).map(|_| part()).sum::<f32>() - 6.0;
            let size = 0.1 * (1.0 + channel as f32);
            all.push(match channel % 3 {
                0 => bell * size,
                1 => (bell * size).max(0.0),
                _ if channel == 5 => 0.0,
                _ => bell * size + 7.0,
            });
        }
    }
    all
}

const COARSE: Coarseness = Coarseness {
    step: 0.25,
    power: 1.0,
};

fn coding(channels: usize, run: usize, coarse: Coarseness) -> CutCoding {
    let samples: Vec<Vec<f32>> = (1..5).map(|seed| tensor(channels, run, seed)).collect();
    let samples: Vec<&[f32]> = samples.iter().map(Vec::as_slice).collect();
    CutCoding {
        tensors: vec![fit(&samples, run, channels, coarse).unwrap()],
        mean_bytes: 1000,
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect()
}

#[test]
fn elements_come_back_rounded_to_half_a_step_in_a_fraction_of_the_bytes() {
    for (channels, run) in [(24, 196), (7, 33), (40, 1), (1, 1001)] {
        let coding = coding(channels, run, COARSE);
        let sent = tensor(channels, run, 3);
        let bytes = coding.encode([sent.as_slice()].into_iter()).unwrap();
        let came = floats(&coding.decode(&bytes, [sent.len()].into_iter()).unwrap());
        assert_eq!(came.len(), sent.len());
        for (at, (sent, came)) in sent.iter().zip(&came).enumerate() {
            let step = coding.tensors[0].channels()[at / run].step;
            assert!(
                (sent - came).abs() <= step * 0.501,
                "element {at}: {sent} came as {came}, step {step}"
            );
            assert!(*sent != 0.0 || *came == 0.0, "zero stays zero");
        }
        if run > 100 {
            // Bells with a step of a quarter of their deviation: 4.05 bits, of 32.
            let part = bytes.len() as f64 / (4 * sent.len()) as f64;
            assert!(part < 0.14, "{channels} channels of {run}: {part:.3}");
        }
    }
}

#[test]
fn what_is_beyond_all_that_was_seen_is_clipped_and_what_is_no_number_is_not_coded() {
    let coding = coding(6, 10, COARSE);
    let mut sent = tensor(6, 10, 9);
    sent[0] = 1e30;
    sent[1] = -1e30;
    let bytes = coding.encode([sent.as_slice()].into_iter()).unwrap();
    let came = floats(&coding.decode(&bytes, [60].into_iter()).unwrap());
    assert!(
        came[0] > 0.2 && came[0] < 5.0 && came[1] < -0.2 && came[1] > -5.0,
        "{:?}",
        &came[..2]
    );
    for no_number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        sent[7] = no_number;
        assert!(coding.encode([sent.as_slice()].into_iter()).is_err());
    }
}

#[test]
fn a_picture_comes_back_as_it_was() {
    let of = |seed: u32| -> Vec<f32> {
        let bytes = (0..3 * 3000u32).map(|i| (i.wrapping_mul(2_654_435_761 + seed) >> 11) as u8);
        bytes.map(|byte| (f32::from(byte) - 127.0) / 128.0).collect()
    };
    let samples = [of(0), of(2), of(4)];
    let samples: Vec<&[f32]> = samples.iter().map(Vec::as_slice).collect();
    let tensors = vec![
        fit(
            &samples,
            3000,
            3,
            Coarseness {
                step: 0.004,
                power: 1.0,
            },
        )
        .unwrap(),
    ];
    let coding = CutCoding {
        tensors,
        mean_bytes: 0,
    };
    let sent = of(6);
    let bytes = coding.encode([sent.as_slice()].into_iter()).unwrap();
    assert!(bytes.len() <= 9005);
    assert_eq!(floats(&coding.decode(&bytes, [9000].into_iter()).unwrap()), sent);
}

#[test]
fn tensors_unlike_those_of_the_fit_take_no_more_than_a_byte_an_element() {
    let coding = coding(
        6,
        100,
        Coarseness {
            step: 0.05,
            power: 1.0,
        },
    );
    let sent: Vec<f32> = (0..600).map(|i| if i % 2 == 0 { 50.0 } else { -50.0 }).collect();
    let bytes = coding.encode([sent.as_slice()].into_iter()).unwrap();
    let (least, most) = CutCoding::bytes([600].into_iter());
    assert!((least..=most).contains(&bytes.len()) && most == Coding::most_bytes(600));
    assert!(coding.decode(&bytes, [600].into_iter()).is_ok());
}

#[test]
fn files_come_back_as_they_were_written_and_damaged_ones_say_so() {
    let features = Features([(3, coding(6, 10, COARSE)), (9, coding(2, 5, COARSE))].into());
    let bytes = features.to_bytes().unwrap();
    assert_eq!(Features::from_bytes(&bytes).unwrap(), features);
    assert!(Features::from_bytes(b"PK\x03\x04").is_err());
    for at in 0..bytes.len() {
        assert!(Features::from_bytes(&bytes[..at]).is_err(), "cut off after {at}");
        let mut other = bytes.clone();
        other[at] ^= 0x41;
        // Whatever it says now, it is sound.
        let _whatever = Features::from_bytes(&other);
    }
}

proptest! {
    #[test]
    fn bytes_of_others_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), how in 0u8..3) {
        let coding = coding(6, 10, COARSE);
        let mut all = (bytes.len() as u32).to_le_bytes().to_vec();
        all.push(how);
        all.extend(&bytes);
        if let Ok(came) = coding.decode(&all, [60].into_iter()) {
            prop_assert_eq!(came.len(), 240);
        }
        let _whatever = coding.decode(&bytes, [60].into_iter());
    }

    #[test]
    fn any_tensors_are_fit_and_come_back(channels in 1usize..5, run in 1usize..9, repeats in 1usize..4, step in 0.01f32..3.0, power in 0f32..1.0,
        values in proptest::collection::vec(-1e20f32..1e20, 200)) {
        let elements = channels * run * repeats;
        let sent = &values[..elements];
        let coding = CutCoding { tensors: vec![fit(&[sent], run, channels, Coarseness { step, power }).unwrap()], mean_bytes: 0 };
        prop_assert!(coding.tensors[0].fits(elements));
        let bytes = coding.encode([sent].into_iter()).unwrap();
        let came = floats(&coding.decode(&bytes, [elements].into_iter()).unwrap());
        for (at, (sent, came)) in sent.iter().zip(&came).enumerate() {
            let step = coding.tensors[0].channels()[at / run % channels].step;
            prop_assert!((sent - came).abs() <= step * 0.51, "{sent} came as {came}, step {step}");
        }
    }
}
