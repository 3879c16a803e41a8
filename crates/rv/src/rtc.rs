//! Owns the real-time clock (goldfish): the wall clock is an input, from there it goes on with the guest's clock.

use serde::{Deserialize, Serialize};

/// The clock, in nanoseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rtc {
    /// What the wall clock is ahead of the guest's clock.
    ahead: u64,
    /// The upper half of the time whose lower half was read last.
    latched: u32,
    alarm: u64,
    armed: bool,
    enabled: bool,
    fired: bool,
}

impl Rtc {
    /// The wall clock says `wall` while the guest's clock says `clock`.
    pub fn set(&mut self, wall: u64, clock: u64) {
        self.ahead = wall.wrapping_sub(clock);
    }

    fn now(&self, clock: u64) -> u64 {
        self.ahead.wrapping_add(clock)
    }

    fn fires(&self, clock: u64) -> bool {
        self.fired || (self.armed && self.now(clock) >= self.alarm)
    }

    /// Whether its interrupt is raised.
    pub fn raised(&self, clock: u64) -> bool {
        self.enabled && self.fires(clock)
    }

    /// When its interrupt will be raised, by the guest's clock.
    pub fn due(&self) -> Option<u64> {
        (self.enabled && (self.armed || self.fired)).then(|| self.alarm.saturating_sub(self.ahead))
    }

    pub fn read(&mut self, offset: u64, clock: u64) -> u32 {
        match offset {
            0 => {
                self.latched = (self.now(clock) >> 32) as u32;
                self.now(clock) as u32
            }
            4 => self.latched,
            8 => self.alarm as u32,
            0xc => (self.alarm >> 32) as u32,
            0x10 => self.enabled.into(),
            0x18 => (self.armed && !self.fires(clock)).into(),
            _ => 0,
        }
    }

    pub fn write(&mut self, offset: u64, value: u32, clock: u64) {
        // What became due before is not undone by what is written now.
        if self.fires(clock) {
            (self.fired, self.armed) = (true, false);
        }
        let value = u64::from(value);
        match offset {
            0 => {
                let wall = (self.now(clock) & !0xffff_ffff) | value;
                self.set(wall, clock);
            }
            4 => {
                let wall = (self.now(clock) & 0xffff_ffff) | value << 32;
                self.set(wall, clock);
            }
            8 => {
                self.alarm = (self.alarm & !0xffff_ffff) | value;
                self.armed = true;
            }
            0xc => self.alarm = (self.alarm & 0xffff_ffff) | value << 32,
            0x10 => self.enabled = value & 1 != 0,
            0x14 => self.armed = false,
            0x1c => self.fired = false,
            _ => {}
        }
    }

    pub fn words(&self) -> [u64; 4] {
        let flags = u64::from(self.armed) | u64::from(self.enabled) << 1 | u64::from(self.fired) << 2;
        [self.ahead, self.latched.into(), self.alarm, flags]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_from_the_wall_clock_and_its_alarm_fires() {
        let mut rtc = Rtc::default();
        rtc.set(0x5_0000_0010, 0x10);
        assert_eq!((rtc.read(0, 0x18), rtc.read(4, 0)), (0x18, 5));
        for (register, value) in [(0x10, 1), (0xc, 5), (8, 0x40)] {
            rtc.write(register, value, 0x18);
        }
        assert_eq!((rtc.due(), rtc.raised(0x3f), rtc.read(0x18, 0x3f)), (Some(0x40), false, 1));
        assert!(rtc.raised(0x40));
        rtc.write(0x14, 0, 0x41);
        assert!(rtc.raised(0x41), "what fired is not undone by clearing the alarm");
        rtc.write(0x1c, 0, 0x41);
        assert!(!rtc.raised(0x99));
        // The guest sets the clock.
        rtc.write(4, 9, 0x50);
        rtc.write(0, 0x77, 0x50);
        assert_eq!((rtc.read(0, 0x51), rtc.read(4, 0)), (0x78, 9));
    }
}
