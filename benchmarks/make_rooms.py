"""Fill a folder with the responses of simulated rooms, for ``sepclip prepare speakers --rirs``.

    pip install pyroomacoustics
    python benchmarks/make_rooms.py ROOMS --rooms 200 --rate 16000
    sepclip prepare speakers VOICES SET --rirs ROOMS --targets dry

Each room is a folder with the responses from a few talkers to one microphone, by the image method (Allen and Berkley,
1979), as pyroomacoustics computes it. Sizes, reverberation times and distances are drawn uniformly from ranges of
offices and living rooms.
"""

import argparse
from pathlib import Path
from random import Random

import numpy as np
import pyroomacoustics
import soundfile

SIZE_M = ((3.0, 8.0), (3.0, 7.0), (2.4, 3.5))  # length, width, height
RT60_SECONDS = (0.15, 0.5)
TALKERS = 3  # a room
MICROPHONE_HEIGHT_M, TALKER_HEIGHT_M = (0.7, 1.3), (1.1, 1.8)
DISTANCE_M = (0.5, 2.0)  # of a talker from the microphone
FROM_WALL_M = 0.3


def draw_room(chance: Random, rate_hz: int) -> list[np.ndarray]:
    """Return the responses of the talkers of one room; sepclip moves the direct sound of each to its beginning."""
    size = [chance.uniform(*limits) for limits in SIZE_M]
    absorption, order = pyroomacoustics.inverse_sabine(chance.uniform(*RT60_SECONDS), size)
    room = pyroomacoustics.ShoeBox(
        size, fs=rate_hz, materials=pyroomacoustics.Material(absorption), max_order=min(order, 40)
    )
    microphone = [*(side * chance.uniform(0.35, 0.65) for side in size[:2]), chance.uniform(*MICROPHONE_HEIGHT_M)]
    room.add_microphone(microphone)
    talkers = 0
    while talkers < TALKERS:
        # at a drawn distance in a drawn direction, if that is inside the room
        distance, angle = chance.uniform(*DISTANCE_M), chance.uniform(0, 2 * np.pi)
        x, y = microphone[0] + distance * np.cos(angle), microphone[1] + distance * np.sin(angle)
        if all(FROM_WALL_M < value < side - FROM_WALL_M for value, side in zip((x, y), size[:2], strict=True)):
            room.add_source([x, y, chance.uniform(*TALKER_HEIGHT_M)])
            talkers += 1
    room.compute_rir()
    responses: list[np.ndarray] = room.rir[0]
    return responses


def main() -> None:
    """Write the rooms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rooms", type=int, default=200)
    parser.add_argument("--rate", type=int, default=16000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for index in range(options.rooms):
        folder = options.folder / f"{index:04}"
        folder.mkdir(parents=True, exist_ok=True)
        responses = draw_room(Random(f"{options.seed} {index}"), options.rate)
        for talker, response in enumerate(responses):
            soundfile.write(folder / f"{talker}.wav", response, options.rate, subtype="FLOAT")


if __name__ == "__main__":
    main()
