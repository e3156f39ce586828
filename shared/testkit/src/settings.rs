//! Compares a program's settings with those that `deploy/SETTINGS.md` lists.

use clap::CommandFactory;

const PAGE: &str = include_str!("../../../deploy/SETTINGS.md");

/// Asserts that the page's section "## `name`" lists exactly the settings and subcommands of this
/// program, a row of a table each, in the order of `--help`. A default stands in backquotes, unless
/// the program finds it out. Each setting must have the environment variable of its name.
pub fn assert_documented<Settings: CommandFactory>() {
    let mut program = Settings::command();
    let heading = format!("## `{}`\n", program.get_name());
    let (_, section) = PAGE.split_once(&heading).expect("it has a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows: Vec<_> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let mut expected = Vec::new();
    for setting in program.get_arguments() {
        let flag = setting.get_long().expect("every setting is a flag");
        let variable = setting.get_env().and_then(|variable| variable.to_str());
        assert_eq!(variable, Some(&*flag.replace('-', "_").to_uppercase()));
        let default = match setting.get_default_values() {
            [default] => format!("`{}` |", default.display()),
            _ => String::new(),
        };
        expected.push(format!("| `--{flag}` | {default}"));
    }
    for subcommand in program.get_subcommands_mut() {
        if !subcommand.is_hide_set() {
            let usage = subcommand.render_usage().to_string();
            expected.push(usage.replace("Usage: ", "| `") + "` |");
        }
    }
    assert_eq!(rows.len(), expected.len(), "{rows:#?}: {expected:#?}");
    for (row, expected) in rows.iter().zip(expected) {
        assert!(
            row.starts_with(&expected),
            "{row} must begin with {expected}"
        );
    }
}
