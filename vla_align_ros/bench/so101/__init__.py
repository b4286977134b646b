"""The SO-101 arm on a table with cubes and pads: physics by MuJoCo, pictures without OpenGL, tasks, experts, shifts.

    embodiment, shifts      what differs between two arms, and the ranges that it is drawn from
    joints                  names, limits, and the numbers that people command it with (rad, degrees, -100..100)
    scene                   arm, table, cubes, pads and cameras as a MuJoCo model, with an embodiment written into it
    skeleton, kinematics    the same as plain numbers, for whatever needs thousands of arms at once
    worlds                  physics of n arms, 250 Hz; commands arrive late, through gears that sag and slip
    painter, pictures       both cameras' pictures of n arms, from stored states too
    tasks, experts          reach, push, pick and place; who knows an embodiment, or believes in another, does them
    episodes, recording     batches of episodes by any policy, and their states, to be drawn again
    collect                 recordings to train on
    source, labels          the bench as a training source, and what only it knows: where things are in the pictures
    controlled              one arm on a clock behind its controllers

Needs the extra `bench` (mujoco, numba). Lengths m, angles rad, unless a name says otherwise.
"""
