//! What instructions compute, against the rules of the PTX manual: expected values are written down or worked out in wider arithmetic.

mod common;

use common::{kernel, launch};
use half::f16;

/// What an instruction makes of `(a, b, c)`, in `%r10` to `%r12`; its result is in `%r13`.
fn of(instruction: &str, operands: &[(u32, u32, u32)]) -> Vec<u32> {
    let body = format!(
        "mul.wide.u32 %rd6, %r1, 12; add.s64 %rd7, %rd1, %rd6;
         ld.global.u32 %r10, [%rd7]; ld.global.u32 %r11, [%rd7+4]; ld.global.u32 %r12, [%rd7+8];
         {instruction}
         st.global.u32 [%rd4], %r13;"
    );
    let input: Vec<u32> = operands.iter().flat_map(|&(a, b, c)| [a, b, c]).collect();
    let threads = operands.len() as u32;
    launch(&kernel(0, &body), &input, 1, threads, 1).unwrap().0[..operands.len()].to_vec()
}

const A: u32 = 0xdead_beef;

#[test]
fn integers() {
    let table: [(&str, (u32, u32, u32), u32); 22] = [
        ("add.s32 %r13, %r10, %r11;", (u32::MAX, 2, 0), 1),
        ("sub.s32 %r13, %r10, %r11;", (1, 2, 0), u32::MAX),
        ("mul.lo.s32 %r13, %r10, %r11;", (A, 3, 0), A.wrapping_mul(3)),
        (
            "mul.hi.u32 %r13, %r10, %r11;",
            (A, A, 0),
            ((u64::from(A) * u64::from(A)) >> 32) as u32,
        ),
        (
            "mul.hi.s32 %r13, %r10, %r11;",
            (A, 3, 0),
            ((i64::from(A as i32) * 3) >> 32) as u32,
        ),
        ("mad.lo.s32 %r13, %r10, %r11, %r12;", (5, 6, 7), 37),
        (
            "div.s32 %r13, %r10, %r11;",
            ((-7i32) as u32, 2, 0),
            (-3i32) as u32,
        ),
        (
            "rem.s32 %r13, %r10, %r11;",
            ((-7i32) as u32, 2, 0),
            (-1i32) as u32,
        ),
        ("shl.b32 %r13, %r10, %r11;", (1, 31, 0), 1 << 31),
        // Shifts beyond the width give 0, or signs.
        ("shl.b32 %r13, %r10, %r11;", (1, 32, 0), 0),
        ("shr.u32 %r13, %r10, %r11;", (A, 40, 0), 0),
        ("shr.s32 %r13, %r10, %r11;", (A, 40, 0), u32::MAX),
        ("min.s32 %r13, %r10, %r11;", (A, 1, 0), A),
        ("min.u32 %r13, %r10, %r11;", (A, 1, 0), 1),
        (
            "bfi.b32 %r13, %r10, %r11, 8, 4;",
            (0xf, 0xffff_0000, 0),
            0xffff_0f00,
        ),
        (
            "lop3.b32 %r13, %r10, %r11, %r12, 0x96;",
            (0xff00, 0xf0f0, 0xcccc),
            0xff00 ^ 0xf0f0 ^ 0xcccc,
        ),
        (
            "prmt.b32 %r13, %r10, %r11, 0x7531;",
            (0x3322_1100, 0x7766_5544, 0),
            0x7755_3311,
        ),
        (
            "setp.lt.s32 %p1, %r10, %r11; selp.b32 %r13, 1, 2, %p1;",
            (A, 0, 0),
            1,
        ),
        (
            "setp.lt.u32 %p1, %r10, %r11; selp.b32 %r13, 1, 2, %p1;",
            (A, 0, 0),
            2,
        ),
        (
            "cvt.s64.s32 %rd8, %r10; shr.u64 %rd8, %rd8, 32; cvt.u32.u64 %r13, %rd8;",
            (A, 0, 0),
            u32::MAX,
        ),
        (
            "mov.b64 %rd8, {%r10, %r11}; mov.b64 {%r14, %r13}, %rd8;",
            (1, 2, 0),
            2,
        ),
        (
            "mov.b32 {%h1, %h2}, %r10; mov.b32 %r13, {%h2, %h1};",
            (A, 0, 0),
            A.rotate_left(16),
        ),
    ];
    for (instruction, operands, expected) in table {
        assert_eq!(
            of(instruction, &[operands]),
            [expected],
            "{instruction} of {operands:x?}"
        );
    }
}

#[test]
fn floats() {
    let f = f32::to_bits;
    let table: [(&str, (f32, f32, f32), u32); 17] = [
        ("add.f32 %r13, %r10, %r11;", (1.0, 2.0f32.powi(-24), 0.0), f(1.0)),
        (
            "fma.rn.f32 %r13, %r10, %r11, %r12;",
            (1.0 + 2.0f32.powi(-12), 1.0 + 2.0f32.powi(-12), -1.0),
            f((2.0f64.powi(-11) + 2.0f64.powi(-24)) as f32),
        ),
        ("min.f32 %r13, %r10, %r11;", (f32::NAN, 1.0, 0.0), f(1.0)),
        ("max.f32 %r13, %r10, %r11;", (f32::NAN, 1.0, 0.0), f(1.0)),
        ("copysign.f32 %r13, %r10, %r11;", (-1.0, 3.0, 0.0), f(-3.0)),
        ("cvt.sat.f32.f32 %r13, %r10;", (f32::NAN, 0.0, 0.0), f(0.0)),
        ("cvt.rni.f32.f32 %r13, %r10;", (2.5, 0.0, 0.0), f(2.0)),
        ("cvt.rmi.f32.f32 %r13, %r10;", (-2.5, 0.0, 0.0), f(-3.0)),
        ("cvt.rzi.s32.f32 %r13, %r10;", (-2.9, 0.0, 0.0), (-2i32) as u32),
        // Beyond the range: the nearest number that there is; NaN: 0.
        ("cvt.rzi.s32.f32 %r13, %r10;", (1e20, 0.0, 0.0), i32::MAX as u32),
        ("cvt.rzi.s32.f32 %r13, %r10;", (f32::NAN, 0.0, 0.0), 0),
        (
            "setp.lt.f32 %p1, %r10, %r11; selp.b32 %r13, 1, 2, %p1;",
            (f32::NAN, 0.0, 0.0),
            2,
        ),
        (
            "setp.ltu.f32 %p1, %r10, %r11; selp.b32 %r13, 1, 2, %p1;",
            (f32::NAN, 0.0, 0.0),
            1,
        ),
        (
            "setp.ne.f32 %p1, %r10, %r11; selp.b32 %r13, 1, 2, %p1;",
            (f32::NAN, 0.0, 0.0),
            2,
        ),
        (
            "setp.neu.f32 %p1, %r10, %r11; selp.b32 %r13, 1, 2, %p1;",
            (f32::NAN, 0.0, 0.0),
            1,
        ),
        (
            "add.rz.f32 %r13, %r10, %r11;",
            (1.0, 2.0f32.powi(-24) * 1.5, 0.0),
            f(1.0),
        ),
        // Between -1 and the next number above it.
        (
            "fma.rm.f32 %r13, %r10, %r11, %r12;",
            (1.0, 2.0f32.powi(-30), -1.0),
            f(-1.0),
        ),
    ];
    for (instruction, (a, b, c), expected) in table {
        let got = of(instruction, &[(f(a), f(b), f(c))])[0];
        assert_eq!(
            got,
            expected,
            "{instruction} of {a}, {b}, {c}: {}",
            f32::from_bits(got)
        );
    }
}

#[test]
fn approximations_are_within_what_the_manual_promises() {
    for i in 0..64u32 {
        let x = (i as f32 - 31.5) / 4.0;
        let got =
            |instruction: &str, x: f32| f64::from(f32::from_bits(of(instruction, &[(x.to_bits(), 0, 0)])[0]));
        let near = |got: f64, exact: f64, relative: f64| {
            assert!((got - exact).abs() <= relative * exact.abs(), "{got} for {exact}")
        };
        near(
            got("ex2.approx.f32 %r13, %r10;", x),
            f64::from(x).exp2(),
            2f64.powi(-22),
        );
        near(
            got("rcp.rn.f32 %r13, %r10;", x),
            1.0 / f64::from(x),
            2f64.powi(-23),
        );
        near(
            got("rsqrt.approx.f32 %r13, %r10;", x.abs()),
            1.0 / f64::from(x.abs()).sqrt(),
            2f64.powi(-22),
        );
    }
}

#[test]
fn halves_are_converted_as_the_standard_of_floats_says() {
    for first in (0..=u16::MAX).step_by(64) {
        let all: Vec<(u32, u32, u32)> = (0..64).map(|i| (u32::from(first + i), 0, 0)).collect();
        let got = of(
            "mov.b32 {%h1, %h2}, %r10; cvt.f32.f16 %f1, %h1; mov.b32 %r13, %f1;",
            &all,
        );
        for ((bits, _, _), got) in all.iter().zip(got) {
            let exact = f16::from_bits(*bits as u16).to_f32();
            let got = f32::from_bits(got);
            assert!(
                got == exact && got.is_sign_negative() == exact.is_sign_negative()
                    || got.is_nan() && exact.is_nan(),
                "{bits:x}: {got}"
            );
        }
    }
    let rounded: Vec<(u32, u32, u32)> = [
        1.0f32,
        1.0 + 2.0f32.powi(-11),
        1.0 + 3.0 * 2.0f32.powi(-11),
        65520.0,
        65519.9,
        6e-8,
        2.9e-8,
        -0.0,
    ]
    .map(|x| (x.to_bits(), 0, 0))
    .to_vec();
    let got = of(
        "mov.b32 %f1, %r10; cvt.rn.f16.f32 %h1, %f1; mov.b32 %r13, {%h1, %h1}; and.b32 %r13, %r13, 65535;",
        &rounded,
    );
    // Ties to even; beyond the largest: infinity; subnormal numbers and zeros keep their sign.
    assert_eq!(got, [0x3c00, 0x3c00, 0x3c02, 0x7c00, 0x7bff, 1, 0, 0x8000]);
}

#[test]
fn lanes_exchange_as_shuffles_say() {
    let run = |instruction: &str| {
        of(
            instruction,
            &std::array::from_fn::<_, 32, _>(|i| (i as u32 + 100, 0, 0)),
        )
    };
    let butterfly = run("shfl.sync.bfly.b32 %r13|%p1, %r10, 5, 31, -1;");
    assert_eq!(butterfly, (0..32u32).map(|i| (i ^ 5) + 100).collect::<Vec<_>>());
    let down = run("shfl.sync.down.b32 %r13|%p1, %r10, 4, 31, -1;");
    assert_eq!(
        down,
        (0..32u32)
            .map(|i| if i + 4 < 32 { i + 104 } else { i + 100 })
            .collect::<Vec<_>>()
    );
    let up = run("shfl.sync.up.b32 %r13|%p1, %r10, 4, 0, -1;");
    assert_eq!(
        up,
        (0..32u32)
            .map(|i| if i >= 4 { i + 96 } else { i + 100 })
            .collect::<Vec<_>>()
    );
    let index = run("shfl.sync.idx.b32 %r13|%p1, %r10, 7, 31, -1;");
    assert_eq!(index, [107; 32]);
}

/// Each lane gives and takes its registers of a product of 16 x 16 by 16 x 8.
#[test]
fn a_product_of_matrices_is_the_sum_of_its_products() {
    let number = |i: usize| f16::from_f32(((i * 37) % 64) as f32 / 16.0 - 2.0);
    let a: Vec<Vec<f16>> = (0..16)
        .map(|m| (0..16).map(|k| number(m * 16 + k)).collect())
        .collect();
    let b: Vec<Vec<f16>> = (0..16)
        .map(|k| (0..8).map(|n| number(1000 + k * 8 + n)).collect())
        .collect();
    let pair = |x: f16, y: f16| u32::from(x.to_bits()) | u32::from(y.to_bits()) << 16;
    let mut input = vec![];
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4 * 2);
        for (m, k) in [(g, t), (g + 8, t), (g, t + 8), (g + 8, t + 8)] {
            input.push(pair(a[m][k], a[m][k + 1]));
        }
        for k in [t, t + 8] {
            input.push(pair(b[k][g], b[k + 1][g]));
        }
    }
    for (register, (row, col)) in [(0, 0), (0, 1), (8, 0), (8, 1)].into_iter().enumerate() {
        let body = format!(
            "mul.wide.u32 %rd6, %r1, 24; add.s64 %rd7, %rd1, %rd6;
             ld.global.u32 %r10, [%rd7]; ld.global.u32 %r11, [%rd7+4]; ld.global.u32 %r12, [%rd7+8]; ld.global.u32 %r13, [%rd7+12];
             ld.global.u32 %r14, [%rd7+16]; ld.global.u32 %r15, [%rd7+20];
             mov.f32 %f1, 0f3F800000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
             mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{%f1, %f2, %f3, %f4}}, {{%r10, %r11, %r12, %r13}}, {{%r14, %r15}}, {{%f1, %f2, %f3, %f4}};
             st.global.f32 [%rd4], %f{};",
            register + 1
        );
        let (out, _) = launch(&kernel(0, &body), &input, 1, 32, 1).unwrap();
        for (lane, &got) in out[..32].iter().enumerate() {
            let (m, n) = (lane / 4 + row, lane % 4 * 2 + col);
            let exact: f64 = 1.0 + (0..16).map(|k| a[m][k].to_f64() * b[k][n].to_f64()).sum::<f64>();
            assert!(
                (f64::from(f32::from_bits(got)) - exact).abs() < 1e-4,
                "row {m}, column {n}"
            );
        }
    }
}

#[test]
fn banks_and_sectors_are_counted_as_a_profiler_does() {
    let store = |stride: u32| {
        let body =
            format!("mov.u32 %r2, tile; mad.lo.s32 %r3, %r1, {stride}, %r2; st.shared.u32 [%r3], %r1;");
        launch(&kernel(8192, &body), &[0], 1, 32, 1)
            .unwrap()
            .1
            .shared_conflicts
    };
    assert_eq!(store(4), 0, "neighbouring words lie in different banks");
    assert_eq!(store(8), 1, "every second word: two lanes a bank");
    assert_eq!(store(128), 31, "one bank for all");
    let load = |stride: u32| {
        let body =
            format!("mul.wide.u32 %rd6, %r1, {stride}; add.s64 %rd7, %rd1, %rd6; ld.global.u32 %r2, [%rd7];");
        launch(&kernel(0, &body), &[0; 1024], 1, 32, 1)
            .unwrap()
            .1
            .global_sectors
    };
    assert_eq!(load(4), 4, "128 bytes are four sectors");
    assert_eq!(load(32), 32, "one for each lane");
    assert_eq!(load(0), 1, "one for all");
}
