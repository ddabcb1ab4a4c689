//! Faults that are planted, each of which the machine must find, beside the same kernel without it.

mod common;

use common::{kernel, launch};
use graft_softgpu::machine::FaultKind;

/// What stops a body that is run by 64 threads; over several seeds, since an order may hide it.
fn stopped(shared: usize, body: &str, input: &[u32], blocks: u32) -> Option<FaultKind> {
    let text = kernel(shared, body);
    (1..6).find_map(|seed| {
        launch(&text, input, blocks, 64, seed)
            .err()
            .map(|fault| fault.kind)
    })
}

/// Each thread leaves a number and takes its neighbour's.
const EXCHANGE: &str = "
    ld.global.u32 %r2, [%rd3];
    shl.b32 %r3, %r1, 2;
    mov.u32 %r4, tile;
    add.s32 %r5, %r4, %r3;
    st.shared.u32 [%r5], %r2;
    bar.sync 0;
    xor.b32 %r6, %r5, 252;
    ld.shared.u32 %r7, [%r6];
    st.global.u32 [%rd4], %r7;";

#[test]
fn a_missing_barrier_is_a_race() {
    let input: Vec<u32> = (0..64).collect();
    assert_eq!(stopped(256, EXCHANGE, &input, 1), None);
    let (out, _) = launch(&kernel(256, EXCHANGE), &input, 1, 64, 1).unwrap();
    assert_eq!(out[..64], (0..64).rev().collect::<Vec<u32>>());
    let without = EXCHANGE.replace("bar.sync 0;", "");
    let kind = stopped(256, &without, &input, 1).expect("it is found");
    assert!(
        matches!(kind, FaultKind::Race { .. } | FaultKind::Unwritten { .. }),
        "{kind:?}"
    );
}

#[test]
fn a_missing_second_barrier_is_a_race_with_readers() {
    let again = format!("{EXCHANGE} bar.sync 0; st.shared.u32 [%r5], %r7;");
    assert_eq!(stopped(256, &again, &[7; 64], 1), None);
    let without = format!("{EXCHANGE} st.shared.u32 [%r5], %r7;");
    let kind = stopped(256, &without, &[7; 64], 1);
    assert!(matches!(kind, Some(FaultKind::Race { .. })), "{kind:?}");
}

#[test]
fn an_address_beyond_the_edge_is_outside() {
    let beyond = "ld.global.u32 %r2, [%rd3+4]; st.global.u32 [%rd4], %r2;";
    assert!(matches!(
        stopped(0, beyond, &[1; 64], 1),
        Some(FaultKind::OutOfBounds { .. })
    ));
    assert_eq!(stopped(0, beyond, &[1; 65], 1), None);
    let shared = "mov.u32 %r2, tile; st.shared.u32 [%r2+256], %r1;";
    assert!(matches!(
        stopped(256, shared, &[1; 64], 1),
        Some(FaultKind::OutOfBounds { .. })
    ));
}

#[test]
fn an_address_between_words_is_not_aligned() {
    assert!(matches!(
        stopped(0, "ld.global.u32 %r2, [%rd1+2];", &[1; 64], 1),
        Some(FaultKind::Misaligned { .. })
    ));
    assert!(matches!(
        stopped(0, "ld.global.v2.u32 {%r2, %r3}, [%rd1+4];", &[1; 64], 1),
        Some(FaultKind::Misaligned { .. })
    ));
}

#[test]
fn memory_that_nobody_wrote_is_not_read() {
    let kind = stopped(256, "mov.u32 %r2, tile; ld.shared.u32 %r3, [%r2];", &[1; 64], 1);
    assert!(matches!(kind, Some(FaultKind::Unwritten { .. })));
}

#[test]
fn a_barrier_that_only_some_lanes_reach_is_found() {
    let body = "and.b32 %r2, %r1, 1; setp.eq.s32 %p1, %r2, 0; @%p1 bra OUT; bar.sync 0; OUT:";
    assert!(matches!(
        stopped(0, body, &[1; 64], 1),
        Some(FaultKind::Diverged { .. })
    ));
    let whole_warps = "setp.lt.u32 %p1, %r1, 32; @%p1 bra OUT; bar.sync 0; OUT:";
    assert_eq!(
        stopped(0, whole_warps, &[1; 64], 1),
        Some(FaultKind::BarrierNeverReached)
    );
}

#[test]
fn a_shuffle_that_only_some_lanes_reach_is_found() {
    let body = "
        and.b32 %r2, %r1, 1; setp.eq.s32 %p1, %r2, 0; @%p1 bra OUT;
        shfl.sync.bfly.b32 %r3|%p2, %r1, 1, 31, -1;
        OUT:";
    assert!(matches!(
        stopped(0, body, &[1; 64], 1),
        Some(FaultKind::Diverged { .. })
    ));
}

/// Copies on the side.
const COPY: &str = "
    mov.u32 %r2, tile; shl.b32 %r3, %r1, 2; add.s32 %r4, %r2, %r3;
    mov.u32 %r8, 4;
    cp.async.ca.shared.global [%r4], [%rd3], 4, %r8;
    cp.async.commit_group;
    cp.async.wait_group 0;
    ld.shared.u32 %r5, [%r4];
    st.global.u32 [%rd4], %r5;";

#[test]
fn a_copy_lands_when_it_is_waited_for_and_no_sooner() {
    let input: Vec<u32> = (100..164).collect();
    assert_eq!(
        launch(&kernel(256, COPY), &input, 1, 64, 1).unwrap().0[..64],
        input
    );
    let without = COPY.replace("cp.async.wait_group 0;", "");
    assert!(matches!(
        stopped(256, &without, &input, 1),
        Some(FaultKind::UnderWay { .. })
    ));
    let not_yet = COPY.replace("wait_group 0", "wait_group 1");
    assert!(matches!(
        stopped(256, &not_yet, &input, 1),
        Some(FaultKind::UnderWay { .. })
    ));
}

#[test]
fn a_copy_that_takes_nothing_fills_with_zeros() {
    let nothing = COPY.replace("mov.u32 %r8, 4;", "mov.u32 %r8, 0;");
    assert_eq!(
        launch(&kernel(256, &nothing), &[9; 64], 1, 64, 1).unwrap().0[..64],
        [0; 64]
    );
}

/// Each block adds to its place; the last one, by a counter, reads what the others left.
const LAST_BLOCK: &str = "
    setp.ne.s32 %p1, %r1, 0; @%p1 bra OUT;
    mov.u32 %r2, %ctaid.x;
    mul.wide.u32 %rd6, %r2, 4;
    add.s64 %rd7, %rd2, %rd6;
    st.global.u32 [%rd7+64], %r2;
    membar.gl;
    atom.global.add.u32 %r3, [%rd1], 1;
    setp.ne.s32 %p2, %r3, 3; @%p2 bra OUT;
    ld.global.u32 %r4, [%rd2+64]; ld.global.u32 %r5, [%rd2+68]; ld.global.u32 %r6, [%rd2+72]; ld.global.u32 %r7, [%rd2+76];
    add.s32 %r4, %r4, %r5; add.s32 %r6, %r6, %r7; add.s32 %r4, %r4, %r6;
    st.global.u32 [%rd2], %r4;
    OUT:";

#[test]
fn blocks_see_each_others_writes_after_a_fence_and_a_count_alone() {
    for seed in 0..8 {
        let (out, _) = launch(&kernel(0, LAST_BLOCK), &[0], 4, 64, seed).unwrap();
        assert_eq!(out[0], 1 + 2 + 3, "whichever block is the last");
    }
    let without = LAST_BLOCK.replace("membar.gl;", "");
    assert!(matches!(
        stopped(0, &without, &[0], 4),
        Some(FaultKind::BlocksRace {
            other_wrote: true,
            ..
        })
    ));
}

#[test]
fn two_blocks_that_write_the_same_place_race() {
    let kind = stopped(0, "st.global.u32 [%rd4], %r1;", &[0], 2);
    assert!(
        matches!(
            kind,
            Some(FaultKind::BlocksRace {
                other_wrote: true,
                ..
            })
        ),
        "{kind:?}"
    );
}

#[test]
fn a_fault_names_kernel_line_block_and_thread() {
    let text = kernel(
        0,
        ".loc 1 42 7\n setp.ne.s32 %p1, %r1, 37; @%p1 bra OUT; ld.global.u32 %r2, [%rd2+4096]; OUT:",
    ) + "\n.file 1 \"/somewhere/edge.cu\"\n";
    let fault = launch(&text, &[0], 1, 64, 1).unwrap_err();
    let told = fault.to_string();
    assert!(
        told.starts_with("kernel test, edge.cu:42, block (0, 0, 0), thread 37: 4 bytes at 0x"),
        "{told}"
    );
}

#[test]
fn an_instruction_that_is_not_known_is_named_and_not_left_out() {
    let error = graft_softgpu::ptx::parse(&kernel(0, "wgmma.fence.sync.aligned;")).unwrap_err();
    assert!(error.to_string().contains("wgmma.fence.sync.aligned"), "{error}");
}
