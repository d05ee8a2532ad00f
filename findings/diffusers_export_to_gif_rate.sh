#!/usr/bin/env bash
# diffusers 0.42.1, Pillow 12.3.0; Python 3.11.
#
# diffusers.utils.export_to_gif(frames, fps=...) writes a film that lasts shorter than its rate says: it hands Pillow
# 1000 // fps whole milliseconds a frame, of which Pillow keeps whole hundredths of a second, cut as well, since a GIF
# has no finer ones. 34 to 49 frames a second all become 50, 26 to 33 all become 33.3, 12 becomes 12.5: a second of film
# at 34 is over after 0.68. Durations that differ from frame to frame by one hundredth, rounded
# from the ends of the frames, add up to the film's length: Pillow takes a list of them.
#
# Output seen, for a second of film:
#   fps 12: export_to_gif 0.96 s, a list of durations 1.00 s
#   fps 24: export_to_gif 0.96 s, a list of durations 1.00 s
#   fps 25: export_to_gif 1.00 s, a list of durations 1.00 s
#   fps 30: export_to_gif 0.90 s, a list of durations 1.00 s
#   fps 34: export_to_gif 0.68 s, a list of durations 1.00 s
#   fps 49: export_to_gif 0.98 s, a list of durations 1.00 s
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "diffusers==0.42.1" "pillow==12.3.0" "numpy>=2"
cat >"$folder/check.py" <<'PYTHON'
from diffusers.utils import export_to_gif
from PIL import Image, ImageSequence


def seconds(path):
    with Image.open(path) as film:
        return sum(frame.info["duration"] for frame in ImageSequence.Iterator(film)) / 1000


for fps in (12, 24, 25, 30, 34, 49):
    frames = [Image.new("L", (4, 4), 5 * i) for i in range(fps)]
    export_to_gif(frames, "a.gif", fps=fps)
    ends = [round(100 * (i + 1) / fps) for i in range(fps)]
    durations = [10 * (end - start) for start, end in zip([0, *ends], ends)]
    frames[0].save("b.gif", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    exported, listed = seconds("a.gif"), seconds("b.gif")
    print(f"fps {fps}: export_to_gif {exported:.2f} s, a list of durations {listed:.2f} s")
    assert exported == round(fps * (1000 // fps // 10) / 100, 2)
    assert listed == 1
PYTHON
cd "$folder" && "$folder/venv/bin/python" check.py 2>/dev/null
