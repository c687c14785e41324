"""`joey completion`: a script that lets a shell complete joey's commands, options and containers."""

from __future__ import annotations

from ...compat.errors import UsageError
from ..options import Arguments, Command, Option

# commands whose first word is a container: of the runtime, and of `joey rich`
_CONTAINERS = ("start", "state", "kill", "delete", "exec", "ps", "pause", "resume", "update", "checkpoint", "events")
_RICH = ("start", "stop", "restart", "pause", "resume", "top", "stats", "logs", "attach", "exec", "inspect", "update",
         "rename", "upgrade", "rollback", "confirm", "commit", "export", "verify", "rm")  # fmt: skip

_BASH = """# joey's completion for bash; in zsh after: autoload -U +X bashcompinit && bashcompinit
_joey() {
    local word=${COMP_WORDS[COMP_CWORD]} command= verb= place=1 each options= words=
    while [ $place -lt $COMP_CWORD ]; do
        each=${COMP_WORDS[place]}
        place=$((place + 1))
        case $each in
            --*=*) ;;
            @GLOBAL@) [ -n "$command" ] || place=$((place + 1)) ;;
            -*) ;;
            *) if [ -z "$command" ]; then command=$each; elif [ -z "$verb" ]; then verb=$each; fi ;;
        esac
    done
    case "$command${verb:+ $verb}" in
@VERBS@
        *)
            case $command in
@COMMANDS@
            esac ;;
    esac
    case "$command $verb" in
@CONTAINERS@
@RICH@
    esac
    case $word in
        -*) COMPREPLY=($(compgen -W "$options --help" -- "$word")) ;;
        *)
            if [ -n "$words" ]; then
                COMPREPLY=($(compgen -W "$words" -- "$word"))
            else
                COMPREPLY=($(compgen -f -- "$word"))
            fi ;;
    esac
}
complete -o filenames -F _joey joey
"""


def run(arguments: Arguments) -> int:
    shell = arguments.words[0]
    if shell in ("bash", "zsh"):
        print(("autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "") + _bash(), end="")
    elif shell == "fish":
        print(_fish(), end="")
    else:
        raise UsageError(f'no completion for "{shell}"', "shells: bash, zsh, fish")
    return 0


def _commands() -> dict[str, Command]:
    from ..cli import COMMANDS, load

    return {name: load(name) for group in COMMANDS.values() for name in group}


def _names(options: tuple[Option, ...]) -> str:
    return " ".join(name for option in options for name in option.names if name.startswith("--"))


def _bash() -> str:
    from ..cli import GLOBAL_OPTIONS, load_verb

    commands = _commands()
    plain, verbs = [], []
    for name, command in commands.items():
        words = " ".join(command.shown)
        plain.append(f'                {name}) options="{_names(command.options)}" words="{words}" ;;')
        for verb in command.shown:
            options = _names(load_verb(command, verb).options)
            verbs.append(f'        "{name} {verb}") options="{options}" ;;')
    plain.append(f'                "") options="{_names(GLOBAL_OPTIONS)}" words="{" ".join(commands)}" ;;')
    with_value = "|".join(name for option in GLOBAL_OPTIONS if option.metavar for name in option.names)
    runtime = "|".join(f'"{name} "' for name in _CONTAINERS)
    rich = "|".join(f'"rich {name}"' for name in _RICH)
    text = _BASH.replace("@GLOBAL@", with_value).replace("@VERBS@", "\n".join(verbs))
    text = text.replace("@COMMANDS@", "\n".join(plain))
    text = text.replace("@CONTAINERS@", f"        {runtime}) words=$(joey list --quiet 2>/dev/null) ;;")
    return text.replace("@RICH@", f"        {rich}) words=$(joey rich ps --all --quiet 2>/dev/null) ;;")


def _fish() -> str:
    from ..cli import GLOBAL_OPTIONS, load_verb

    lines = ["# joey's completion for fish", "complete -c joey -n __fish_use_subcommand -f"]

    def add(condition: str, options: tuple[Option, ...]) -> None:
        for option in options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            value = " -r" if option.metavar else ""
            lines.append(f"complete -c joey -n {_quoted(condition)} {names}{value} -d {_quoted(option.help)}")

    add("__fish_use_subcommand", GLOBAL_OPTIONS)
    for name, command in _commands().items():
        summary = _quoted(command.summary)
        lines.append(f"complete -c joey -n __fish_use_subcommand -f -a {name} -d {summary}")
        seen = f"__fish_seen_subcommand_from {name}"
        if not command.shown:
            add(seen, command.options)
        for verb, line in command.shown.items():
            others = " ".join(command.shown)
            lines.append(
                f"complete -c joey -n {_quoted(f'{seen}; and not __fish_seen_subcommand_from {others}')} -f -a {verb} "
                f"-d {_quoted(line)}"
            )
            add(f"{seen}; and __fish_seen_subcommand_from {verb}", load_verb(command, verb).options)
    ours = "; and not __fish_seen_subcommand_from rich fleet"
    seen = f"__fish_seen_subcommand_from {' '.join(_CONTAINERS)}{ours}"
    lines.append(f"complete -c joey -n '{seen}' -f -a '(joey list --quiet)'")
    rich = "__fish_seen_subcommand_from rich; and __fish_seen_subcommand_from " + " ".join(_RICH)
    lines.append(f"complete -c joey -n '{rich}' -f -a '(joey rich ps --all --quiet)'")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


COMMAND = Command(
    "completion",
    "print a script that lets a shell complete joey's command lines",
    run,
    words="bash|zsh|fish",
    least=1,
    most=1,
    examples=(
        "joey completion bash >/etc/bash_completion.d/joey",
        "joey completion zsh >>~/.zshrc",
        "joey completion fish >~/.config/fish/completions/joey.fish",
    ),
)
