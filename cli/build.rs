//! Asks the linker to fold functions that came out the same, as generic code for a hundred kinds does: a tenth of the binary.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    let is_empty = |name: &str| std::env::var(name).is_ok_and(|found| found.is_empty());
    // What rustc links with lld (since 1.90), unless somebody has chosen another linker or flags: others may not know it.
    let lld = is("TARGET", "x86_64-unknown-linux-gnu")
        && std::env::var("RUSTC_LINKER").is_err()
        && is_empty("CARGO_ENCODED_RUSTFLAGS");
    // Folded functions share a name in a debugger.
    if lld && is("PROFILE", "release") {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
