"""DAVIS 2017: the videos that the Distracting Control Suite shows behind its tasks.

Its training and validation lists (Pont-Tuset et al., arXiv:1704.00675, `ImageSets/2017` of the data
set) are the suite's 60 videos to train on and 30 held out, in the order from which "the first n
videos" of a level are taken (Stone et al., arXiv:2101.02722).
"""

from __future__ import annotations

URL = "https://data.vision.ee.ethz.ch/csergi/share/davis/DAVIS-2017-trainval-480p.zip"
# Size and hash of that archive as TensorFlow Datasets lists them
# (tensorflow_datasets/video/davis/checksums.tsv).
ARCHIVE_BYTES = 832_766_765
ARCHIVE_SHA256 = "e3d0b5b77c3d031b000a19e0e25e3e2cac65d183755601bc2cf066df1a2aa492"

TRAIN_VIDEOS: tuple[str, ...] = tuple(
    name
    for line in (
        "bear bmx-bumps boat boxing-fisheye breakdance-flare bus car-turn cat-girl classic-car",
        "color-run crossing dance-jump dancing disc-jockey dog-agility dog-gooses dogs-scale",
        "drift-turn drone elephant flamingo hike hockey horsejump-low kid-football kite-walk",
        "koala lady-running lindy-hop longboard lucia mallard-fly mallard-water miami-surf",
        "motocross-bumps motorbike night-race paragliding planes-water rallye rhino rollerblade",
        "schoolgirls scooter-board scooter-gray sheep skate-park snowboard soccerball stroller",
        "stunt surf swing tennis tractor-sand train tuk-tuk upside-down varanus-cage walking",
    )
    for name in line.split()
)
HELD_OUT_VIDEOS: tuple[str, ...] = tuple(
    name
    for line in (
        "bike-packing blackswan bmx-trees breakdance camel car-roundabout car-shadow cows",
        "dance-twirl dog dogs-jump drift-chicane drift-straight goat gold-fish horsejump-high",
        "india judo kite-surf lab-coat libby loading mbike-trick motocross-jump",
        "paragliding-launch parkour pigs scooter-black shooting soapbox",
    )
    for name in line.split()
)
