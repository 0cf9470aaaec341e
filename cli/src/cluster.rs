//! Being composed.
pub async fn run(_: crate::config::Settings, _: std::time::Instant) -> Result<(), crate::Exit> {
    Err(crate::Exit::failed("being composed"))
}
