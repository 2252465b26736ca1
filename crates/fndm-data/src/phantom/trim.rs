//! Removal of fragments from a mask.

/// Clears every 4-connected part of fewer than `least` pixels. The mask has rows of `width`.
pub(super) fn drop_fragments(mask: &mut [bool], width: usize, least: usize) {
    let mut seen = vec![false; mask.len()];
    let mut part = Vec::new();
    for start in 0..mask.len() {
        if !mask[start] || seen[start] {
            continue;
        }
        part.clear();
        part.push(start);
        seen[start] = true;
        let mut next = 0;
        while let Some(&i) = part.get(next) {
            next += 1;
            let (row, column) = (i / width, i % width);
            let neighbours = [
                (row > 0).then(|| i - width),
                (column > 0).then(|| i - 1),
                (column + 1 < width).then_some(i + 1),
                Some(i + width).filter(|j| *j < mask.len()),
            ];
            for j in neighbours.into_iter().flatten() {
                if mask[j] && !seen[j] {
                    seen[j] = true;
                    part.push(j);
                }
            }
        }
        if part.len() < least {
            for i in &part {
                mask[*i] = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::drop_fragments;

    #[test]
    fn small_parts_go_and_large_ones_stay() {
        let picture = "\
            #..##\
            ....#\
            .#...\
            ##..#";
        let mut mask: Vec<bool> = picture.chars().map(|c| c == '#').collect();
        drop_fragments(&mut mask, 5, 3);
        let left: String = mask.iter().map(|m| if *m { '#' } else { '.' }).collect();
        assert_eq!(left, "...##....#.#...##...");
    }
}
