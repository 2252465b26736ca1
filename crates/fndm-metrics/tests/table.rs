//! The four formats of a table, read back as their readers would.

use fndm_metrics::{Aggregate, Better, Cell, Column, Error, Score, Table, Undefined};

/// Two rows of the paper's table 2, and one with skipped cases and special characters.
fn table() -> Table {
    let columns = vec![
        Column::percent("brats_dice", "Dice").in_group("BRATS"),
        Column::distance("brats_hd", "HD").in_group("BRATS"),
        Column::percent("isles_dice", "Dice").in_group("ISLES"),
        Column::number("steps", "Steps", 0),
    ];
    let mut table = Table::new(columns).unwrap();
    let value = Cell::from;
    table
        .push(
            "diffano",
            "DiffANO",
            vec![value(0.6665), value(4.82), value(0.3446), value(300.0)],
        )
        .unwrap();
    table
        .push(
            "fndm",
            "FNDM",
            vec![value(0.7621), value(3.80), value(0.5444), value(50.0)],
        )
        .unwrap();
    let skipped = Aggregate::of([
        Score::Value(0.25),
        Score::Value(0.5),
        Score::Undefined(Undefined::BothEmpty),
    ]);
    table
        .push(
            "a, \"b\"",
            "A|B_100%",
            vec![
                skipped.into(),
                Score::Undefined(Undefined::ResultEmpty).into(),
                Cell::Text("n/a".to_owned()),
                Cell::from(1.0),
            ],
        )
        .unwrap();
    table
}

#[test]
fn markdown() {
    let text = table().to_markdown();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "| Method | BRATS Dice (%) | BRATS HD | ISLES Dice (%) | Steps |"
    );
    assert_eq!(lines[3], "| FNDM | **76.21** | **3.80** | **54.44** | 50 |");
    assert_eq!(lines[4], "| A\\|B_100% | 37.50 | – | n/a | 1 |");
    assert!(text.contains("BRATS Dice: 1 of 3 skipped (1 both empty)."));
    assert!(text.contains("BRATS HD: undefined (result empty)."));
}

#[test]
fn csv() {
    let text = table().to_csv();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "method,brats_dice,brats_dice_median,brats_dice_counted,brats_dice_skipped,\
         brats_dice_skipped_because,brats_hd,brats_hd_undefined_because,isles_dice,steps"
    );
    assert_eq!(lines[2], "fndm,0.7621,,,,,3.8,,0.5444,50");
    assert_eq!(
        lines[3],
        "\"a, \"\"b\"\"\",0.375,0.375,2,1,1 both empty,,result empty,n/a,1"
    );
}

#[test]
fn json() {
    let table: serde_json::Value = serde_json::from_str(&table().to_json().unwrap()).unwrap();
    let row = &table["rows"][1];
    assert_eq!(row["method"], "fndm");
    assert_eq!(row["brats_dice"], 0.7621);
    let row = &table["rows"][2];
    assert_eq!(row["brats_dice"], 0.375);
    assert!(row["brats_hd"].is_null());
    assert_eq!(row["undefined"]["brats_hd"], "result_empty");
    assert_eq!(row["aggregates"]["brats_dice"]["skipped"]["both_empty"], 1);
}

#[test]
fn latex() {
    let text = table().to_latex();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "\\begin{tabular}{lcccc}");
    assert_eq!(
        lines[2],
        " & \\multicolumn{2}{c}{BRATS} & \\multicolumn{1}{c}{ISLES} & \\\\"
    );
    assert_eq!(lines[3], "\\cmidrule(lr){2-3}\\cmidrule(lr){4-4}");
    assert_eq!(
        lines[4],
        "Method & Dice (\\%) & HD & Dice (\\%) & Steps \\\\"
    );
    assert_eq!(
        lines[7],
        "FNDM & \\textbf{76.21} & \\textbf{3.80} & \\textbf{54.44} & 50 \\\\"
    );
    assert_eq!(
        lines[8],
        "A\\textbar{}B\\_100\\% & 37.50 & -- & n/a & 1 \\\\"
    );
    assert!(text.ends_with("% A|B_100%, BRATS HD: undefined (result empty).\n"));
}

#[test]
fn equal_numbers_are_equally_good_and_misfits_are_errors() {
    let mut column = Column::number("ms", "ms", 1);
    column.better = Better::Lower;
    let mut table = Table::new(vec![column.clone()]).unwrap();
    table.push("a", "A", vec![1.01.into()]).unwrap();
    table.push("b", "B", vec![1.02.into()]).unwrap();
    table.push("c", "C", vec![1.2.into()]).unwrap();
    assert_eq!(table.to_markdown().matches("**1.0**").count(), 2);
    assert!(matches!(table.push("d", "D", vec![]), Err(Error::Table(_))));
    assert!(Table::new(vec![column.clone(), column]).is_err());
    for reserved in ["method", "aggregates", "undefined"] {
        assert!(Table::new(vec![Column::number(reserved, "M", 0)]).is_err());
    }
}
