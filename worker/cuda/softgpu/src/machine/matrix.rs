//! Products of small matrices, as the lanes of a warp hold them.
//!
//! After: "Parallel Thread Execution ISA", matrix fragments for mma.m16n8k16 and ldmatrix.

use super::arithmetic::float_of_half;

/// Rows and columns of A (16 x 16), B (16 x 8) and the sum (16 x 8).
const M: usize = 16;
const N: usize = 8;
const K: usize = 16;

/// A register of a warp: a word for each lane.
pub(super) type Lanes = [u32; 32];

/// The two halves of a word, low first.
fn halves(word: u32) -> [f32; 2] {
    [float_of_half(word as u16), float_of_half((word >> 16) as u16)]
}

/// sum + a * b: products are exact, and are added in the order of k, rounded to fp32 each time.
pub(super) fn multiply_add(a: &[Lanes; 4], b: &[Lanes; 2], sum: &[Lanes; 4]) -> [Lanes; 4] {
    let mut left = [[0f32; K]; M];
    let mut right = [[0f32; N]; K];
    for lane in 0..32 {
        let (row, k) = (lane / 4, lane % 4 * 2);
        for (register, lanes) in a.iter().enumerate() {
            let [x, y] = halves(lanes[lane]);
            let row = row + register % 2 * 8;
            let k = k + register / 2 * 8;
            left[row][k] = x;
            left[row][k + 1] = y;
        }
        for (register, lanes) in b.iter().enumerate() {
            let [x, y] = halves(lanes[lane]);
            let k = k + register * 8;
            right[k][row] = x;
            right[k + 1][row] = y;
        }
    }
    let mut all = [[0f32; N]; M];
    for lane in 0..32 {
        for (register, lanes) in sum.iter().enumerate() {
            all[lane / 4 + register / 2 * 8][lane % 4 * 2 + register % 2] = f32::from_bits(lanes[lane]);
        }
    }
    for (row, all) in all.iter_mut().enumerate() {
        for k in 0..K {
            let x = left[row][k];
            for n in 0..N {
                all[n] += x * right[k][n];
            }
        }
    }
    let mut out = [[0; 32]; 4];
    for lane in 0..32 {
        for (register, lanes) in out.iter_mut().enumerate() {
            lanes[lane] = all[lane / 4 + register / 2 * 8][lane % 4 * 2 + register % 2].to_bits();
        }
    }
    out
}

/// Rows of 8 halves, as they lie in memory, to fragments: lane l holds elements 2 (l % 4) and the next of row l / 4; of the
/// transposed matrix, if so told.
pub(super) fn fragment(rows: &[[u16; 8]; 8], transposed: bool) -> Lanes {
    std::array::from_fn(|lane| {
        let (row, col) = (lane / 4, lane % 4 * 2);
        let [low, high] = if transposed {
            [rows[col][row], rows[col + 1][row]]
        } else {
            [rows[row][col], rows[row][col + 1]]
        };
        u32::from(low) | u32::from(high) << 16
    })
}
