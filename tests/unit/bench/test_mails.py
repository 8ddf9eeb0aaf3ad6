"""The mails that the bench sends are valid in DATA and as varied as they claim."""

from email import message_from_bytes

from bench.mails import LARGE, SMALL, for_data, varied


def test_a_mail_for_data_has_crlf_only_and_no_bare_dot_line() -> None:
    for path in (SMALL, LARGE):
        lines = for_data(path).split(b"\r\n")

        assert not any(b"\n" in line or b"\r" in line for line in lines)
        assert b"." not in lines
        assert lines[-1] == b""


def test_numbered_mails_differ_in_their_subject_alone() -> None:
    mail = varied()

    first, second = (message_from_bytes(mail.numbered(number)) for number in (1, 2))

    assert first["Subject"] == f"Verify your e-mail, {mail.words[1]} 1"
    assert first["Subject"] != second["Subject"]
    assert first.get_payload()[1].as_bytes() == second.get_payload()[1].as_bytes()


def test_each_word_stands_in_one_mail_of_a_thousand() -> None:
    mail = varied()

    subjects = [message_from_bytes(mail.numbered(number))["Subject"] for number in range(2000)]

    assert sum(mail.words[7] in subject for subject in subjects) == 2
    assert len(set(mail.words)) == 1000
