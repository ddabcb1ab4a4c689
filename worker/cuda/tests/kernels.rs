//! Every kernel on the software GPU, over random shapes.

mod common;

#[test]
fn every_kernel_computes_what_its_reference_does() {
    let engine = common::softgpu();
    let (reports, _) = graft_cuda::check::kernels(&engine, 12, 1, |_, _| {}).unwrap();
    let wrong: Vec<_> = reports.iter().filter(|r| !r.ok).collect();
    assert!(wrong.is_empty(), "{wrong:?}; {:?}", engine.softgpu_messages());
    assert!(reports.len() >= 12);
}
