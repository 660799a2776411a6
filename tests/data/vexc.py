"""The reader's copy of the module ``vexc``, whose exceptions the workers raised when the vectors were captured."""


class PlainError(Exception):
    pass


class TwoArgs(Exception):
    def __init__(self, left: str, right: int) -> None:
        super().__init__(left, right)


class Outer:
    class Nested(Exception):
        pass


class Mismatch(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code={code}", {"detail": "dd"}, "third")


class NotAnException:
    def __init__(self, text: str) -> None:
        raise AssertionError("constructed by a record")


NOT_A_CLASS = 42
