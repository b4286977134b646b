"""Why a message is not read or not taken, and why there is no observation: codes, and exceptions that carry them."""

from __future__ import annotations

from enum import Enum


class MessageReason(Enum):
    """Why a message was not read."""

    MALFORMED = "malformed"  # The bytes are not one whole CDR message of the expected type.
    WRONG_TYPE = "wrong_type"  # The topic's message type is none that this reader knows.
    BAD_STAMP = "bad_stamp"  # header.stamp is zero (a trajectory's may be), negative or has 1e9 ns or more.
    EMPTY_DATA = "empty_data"  # An image without pixels.
    WRONG_ENCODING = "wrong_encoding"  # An image encoding, depth or order of colours that is not supported.
    WRONG_STEP = "wrong_step"  # An image whose rows are shorter than its width.
    WRONG_SIZE = "wrong_size"  # An image with more or fewer bytes than step * height.
    TORN_IMAGE = "torn_image"  # A JPEG or PNG of which a part is missing.
    UNDECODABLE = "undecodable"  # A compressed image that is no JPEG or PNG.
    MISSING_JOINT = "missing_joint"  # A trajectory lacks a joint of the model.
    UNKNOWN_JOINT = "unknown_joint"  # A trajectory moves a joint that the model does not have.
    DUPLICATE_JOINT = "duplicate_joint"  # A joint of the model is in the message twice.
    EMPTY_POSITION = "empty_position"  # A joint state, or a point of a trajectory, without positions.
    EMPTY_VELOCITY = "empty_velocity"  # A joint state without velocities, one of which a field of the state reads.
    EMPTY_EFFORT = "empty_effort"  # A joint state without efforts, one of which a field of the state reads.
    LENGTH_MISMATCH = "length_mismatch"  # Names and numbers differ in length.
    NON_FINITE = "non_finite"  # NaN or infinity in what is read of a joint of the model.
    EMPTY_TRAJECTORY = "empty_trajectory"  # A trajectory without points: some controllers stop for it.
    EFFORT_POINT = "effort_point"  # A trajectory with efforts: what motion comes of them nobody can say.
    STILL_MOVING = "still_moving"  # A trajectory whose last point has a velocity.
    BAD_TRAJECTORY = "bad_trajectory"  # A trajectory whose times do not rise, or that has no duration.
    TRAJECTORY_OVER = "trajectory_over"  # A trajectory that had ended before it came.
    TRAJECTORY_AHEAD = "trajectory_ahead"  # A trajectory for later: controllers differ in what they do until then.


class MessageRefused(ValueError):
    """A message cannot be used. `reason` is for counters and diagnostics, the text for people."""

    def __init__(self, reason: MessageReason, text: str) -> None:
        super().__init__(f"{reason.value}: {text}")
        self.reason = reason


class ObservationReason(Enum):
    """Why there is no observation at a tick, or why a well-formed message was not taken."""

    NO_PROMPT = "no_prompt"  # No prompt had come by the tick.
    NO_JOINTS = "no_joints"  # Of some joints, no state in the history is as old as the tick.
    STALE_JOINTS = "stale_joints"  # Some joint's newest state is older than joint_stale_s.
    NO_IMAGE = "no_image"  # No image of a camera in the history is as old as the tick.
    STALE_IMAGE = "stale_image"  # A camera's newest image is older than image_stale_s.
    FROZEN_IMAGE = "frozen_image"  # A camera's pixels are still the same, frozen_s after a joint moved.
    PROMPT_EMPTY = "prompt_empty"  # A prompt without words; the old one stays.
    PROMPT_TOO_LONG = "prompt_too_long"  # A prompt of more tokens than the model reads; the old one stays.
    DUPLICATE_STAMP = "duplicate_stamp"  # A second message with the same stamp; the first one stays.
    STAMP_AHEAD = "stamp_ahead"  # A stamp later than the node's clock by more than stamp_ahead_max_s.
    STAMP_BEHIND = "stamp_behind"  # A stamp so far behind the node's clock that the message is of no use.
    NO_CLOCK = "no_clock"  # use_sim_time is set and no /clock has come, so that no stamp can be judged.
    CLOCK_JUMP = "clock_jump"  # The node's clock fell back: all that was sensed before it is forgotten.


class ObservationRefused(ValueError):
    """No observation can be had, or a message was not taken. `reason` is for counters, the text for people."""

    def __init__(self, reason: ObservationReason, text: str) -> None:
        super().__init__(f"{reason.value}: {text}")
        self.reason = reason
