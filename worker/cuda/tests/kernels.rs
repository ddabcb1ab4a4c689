//! Every kernel on the software GPU, over random shapes.

mod common;

#[test]
fn every_kernel_computes_what_its_reference_does() {
    let engine = common::softgpu();
    let reports = graft_cuda::check::kernels(&engine, 12, 1, |_, _| {}).unwrap();
    for report in &reports {
        println!("{:20} {:3} {:.2e} {} {:?}", report.name, report.cases, report.worst, report.ok, report.wrong);
    }
    println!("{}", engine.softgpu_report().unwrap().split("\"messages\"").nth(1).unwrap().chars().take(900).collect::<String>());
    assert!(reports.iter().all(|r| r.ok));
}
