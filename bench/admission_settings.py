"""The portal's settings, with one view more: an empty one, for what a request costs before anything is done."""

from derp_portal.settings import *  # noqa: F403

ROOT_URLCONF = "bench.admission_urls"
