"""The commands of `nas`, one file each, called as the command is. Each has

    a docstring                  what help says of it
    add_arguments(command)       what it takes besides what all commands take
    carry_out(args) -> int       does it, and gives its exit code (nas.exit_codes)

What several of them share: arguments, experiments, cluster, stopping, printing. These files may import every layer,
but inside functions: at their top is the standard library alone, so that help answers at once.
"""
