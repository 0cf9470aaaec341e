//! Links the released programs to fixed addresses.
//!
//! Position-independent programs carry a table of every pointer in their data and write to all of those pages at each
//! start: 2.5 MB of file and as much memory of an idle server. Kubernetes' own programs are linked this way, too; libraries,
//! heap and stacks stay where the kernel's dice put them.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}
