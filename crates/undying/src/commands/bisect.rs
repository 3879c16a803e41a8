//! Owns `undying rv bisect`.

use super::rv::{correct, hexadecimal, invalid, open_log, tell};
use crate::cli::Output;
use crate::deterministic::BisectArgs;
use crate::failure::Failure;
use crate::out;
use rvrun::bisect::{Difference, Found, Verdict, What, bisect, describe};
use rvrun::setup::Setup;
use serde_json::json;

/// Finds where two recordings begin to differ, and tells it.
pub fn bisect_logs(output: Output, args: &BisectArgs) -> Result<(), Failure> {
    let second = args.second.as_ref().unwrap_or(&args.first);
    let correct = |setup: &mut Setup| {
        correct(setup, args.kernel.as_deref(), args.initrd.as_deref(), args.origin.as_deref());
    };
    let logs = [open_log(&args.first)?, open_log(second)?];
    match bisect(logs, correct, args.plainly).map_err(invalid)? {
        Verdict::Same { instructions, longer } if output == Output::Json => {
            out::json(&json!({ "same": true, "instructions": instructions, "longer": longer }))
        }
        Verdict::Same { instructions, longer } => {
            tell(&format!("the runs are the same for {instructions} instructions"));
            for (name, _) in ["first", "second"].iter().zip(longer).filter(|(_, longer)| *longer) {
                tell(&format!("the {name} recording goes on behind that"));
            }
            Ok(())
        }
        Verdict::Differs(found) if output == Output::Json => out::json(&found_as_json(&found)),
        Verdict::Differs(found) => {
            tell_found(&found);
            Ok(())
        }
    }
}

fn found_as_json(found: &Found) -> serde_json::Value {
    let what = match found.what {
        What::Beginning => "beginning",
        What::Instruction => "instruction",
        What::Inputs => "inputs",
        What::Together => "together",
    };
    let differences = found.differences.iter().map(|difference| match difference {
        Difference::Register { name, values } => {
            json!({ "register": name, "values": values.map(hexadecimal) })
        }
        Difference::Memory { address, values } => {
            json!({ "address": hexadecimal(*address), "values": values.map(hexadecimal) })
        }
        Difference::Part { name } => json!({ "part": name }),
    });
    json!({
        "same": false, "what": what, "instructions": found.instructions, "reboots": found.reboots,
        "pc": found.pc.map(hexadecimal),
        "instruction": found.instruction.map(|word| word.map(|word| format!("{word:08x}"))),
        "inputs": found.inputs.each_ref().map(|inputs| inputs.iter().map(describe).collect::<Vec<_>>()),
        "differences": differences.collect::<Vec<_>>(),
    })
}

fn tell_found(found: &Found) {
    let Found { instructions, reboots, .. } = *found;
    tell(&match found.what {
        What::Beginning => "the machines are not the same at their beginning".to_owned(),
        What::Instruction => format!(
            "the runs are the same for {} instructions, after {reboots} reboots; the next one does not do the same",
            instructions - 1
        ),
        What::Inputs => format!(
            "the runs are the same for {instructions} instructions, after {reboots} reboots; then what comes from outside differs"
        ),
        What::Together => format!(
            "the runs differ up to instruction {instructions}, after {reboots} reboots, if they go there at once, and do not if \
             they stop in between: one of them was not carried out as it should be, near the places below"
        ),
    });
    let word = |word: Option<u32>| word.map_or("not to be read".to_owned(), |word| format!("{word:08x}"));
    for (at, name) in ["first", "second"].iter().enumerate() {
        tell(&format!("{name}: pc {:016x}, instruction {}", found.pc[at], word(found.instruction[at])));
        found.inputs[at].iter().for_each(|input| tell(&format!("  input: {}", describe(input))));
    }
    for difference in &found.differences {
        tell(&match difference {
            Difference::Register { name, values: [one, two] } => format!("{name:<18} {one:016x} {two:016x}"),
            Difference::Memory { address, values: [one, two] } => {
                format!("[{address:016x}] {one:016x} {two:016x}")
            }
            Difference::Part { name } => format!("{name} differs"),
        });
    }
}
