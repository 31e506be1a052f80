#!/usr/bin/env bash
# Localization of your own boxed photographs in five folds (App. A): every image of `train` and `validation` is found by
# a net that was trained on the other four fifths. Safe to start again at any time: what is finished ends at once, the
# rest resumes.
#
#   launch/folds.sh SOURCE FOLDER [--config.localization.per_class=False and other overrides for all runs]
#
# SOURCE is voc:PATH, or any other with boxes and these two splits. Each fold's tables are in its run's evaluation/; the
# last lines average them over all objects.
set -euo pipefail
source=${1:?a source of photographs with boxes, voc:PATH}
folder=${2:?a folder for the runs}
shift 2
for first in 0 20 40 60 80; do
  last=$((first + 20)) train="" validation=""
  for role in train validation; do
    ((first == 0)) || train+="+${role}[:$first%]"
    ((last == 100)) || train+="+${role}[$last%:]"
    validation+="+${role}[$first%:$last%]"
  done
  run="$folder/fold$first"
  python -m vgg_jax.main --config="configs/localize.py:$source" --workdir="$run" \
    --config.data.train_split="${train#+}" --config.data.validation_split="${validation#+}" \
    --config.evaluate.split="${validation#+}" "$@"
  python -m vgg_jax.main --mode=evaluate --workdir="$run" "$@"
done
python - "$folder" <<'END'
import json, pathlib, sys
rows = [row for file in sorted(pathlib.Path(sys.argv[1]).glob("fold*/evaluation/*/*/tables.json"))
        for row in json.loads(file.read_text())]
for table, setting in dict.fromkeys((row["table"], row["setting"]) for row in rows):
    of = [row for row in rows if (row["table"], row["setting"]) == (table, setting)]
    count = sum(row["count"] for row in of)
    mean = lambda key: sum(row["count"] * row[key] for row in of) / count
    print(f"Table {table}, {setting}: {100 - mean('given'):.1f} % of {count} right, mean IoU {mean('iou'):.3f}")
END
